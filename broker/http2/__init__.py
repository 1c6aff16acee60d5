"""A sans-IO HTTP/2 server core (RFC 9113): bytes in, calls on an application and bytes out.

It opens no socket and knows no event loop. It serves what gRPC clients send: no push, priorities read and ignored.
"""
