"""Connects to a broker: dialling, gRPC and MessagePack-RPC."""
