"""Clients of a broker: dialling, gRPC and MessagePack-RPC."""
