"""Models of the admin API, shared by the daemon and the command line tool. Pydantic only."""
