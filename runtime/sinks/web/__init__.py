"""A web page with what all sources show and give, its health check and its metrics; see docs/web.md."""
