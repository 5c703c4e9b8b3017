"""Checks a deployment from outside: each finding says what is wrong and what to do."""
