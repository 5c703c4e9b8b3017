"""Administration: the one way by which buckets, inputs and tokens change."""

from relay_tornado.admin.administration import Administration as Administration
