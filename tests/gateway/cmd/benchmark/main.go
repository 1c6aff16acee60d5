// Benchmark contains the two servers that a benchmark puts around a gateway.
//
//	benchmark floor SOCKET       a gRPC server that sends every object back unread
//	benchmark upstream ADDRESS   an HTTP server with a short answer, on host:port
//
// Both run until they are killed.
package main

import (
	"fmt"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: benchmark floor SOCKET | benchmark upstream HOST:PORT")
	}
	switch os.Args[1] {
	case "floor":
		log.Fatal(serveFloor(os.Args[2]))
	case "upstream":
		log.Fatal(serveUpstream(os.Args[2]))
	}
	log.Fatal(fmt.Errorf("%s: neither floor nor upstream", os.Args[1]))
}
