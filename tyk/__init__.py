"""What plugin authors import: decorators, the request, sessions, events, and the gateway's services."""
