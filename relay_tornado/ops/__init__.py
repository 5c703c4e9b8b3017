"""Operations on the database file: backup, restore, check, export, and statistics of its space."""
