"""`python -m benchmarks.servers.grpc_processes ADDRESS PROCESSES`: grpcio in front of a ProcessPoolExecutor.

The front only carries bytes; a process of the pool decodes, runs the hook and encodes. The pool is spawned before gRPC
starts its threads.
"""

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import grpc

from benchmarks.servers.hook import add_header_to_bytes, service

THREADS = 10


def serve(address: str, processes: int) -> None:
    """Serve until SIGTERM. A pool that is not shut down leaves its processes and named semaphores behind."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(os.getpid) for _ in range(processes)]:
            future.result()

        def dispatch(request: bytes, context: grpc.ServicerContext) -> bytes:
            return pool.submit(add_header_to_bytes, request).result()

        server = grpc.server(ThreadPoolExecutor(THREADS))
        server.add_generic_rpc_handlers((service(dispatch, raw=True),))
        server.add_insecure_port(address)
        server.start()
        stopping.wait()
        server.stop(grace=None).wait()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
