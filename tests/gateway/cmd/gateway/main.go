// Gateway is a small HTTP gateway that treats hooks as Tyk does, for end-to-end tests of tykpy.
//
// It reads its configuration as JSON (see config.go) from the file named by --config, prints one line of JSON with the
// addresses that it listens on, and runs until SIGTERM or until its standard input closes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	path := flag.String("config", "", "JSON file with the configuration")
	flag.Parse()
	log.SetFlags(log.Lmicroseconds)
	if err := run(*path); err != nil {
		log.Fatal(err)
	}
}

func run(path string) error {
	config, err := readConfig(path)
	if err != nil {
		return err
	}
	gateway, err := newGateway(config)
	if err != nil {
		return err
	}
	public, err := serve(gateway, config.Certificate, config.PrivateKey)
	if err != nil {
		return err
	}
	control, err := serve(gateway.control(), "", "")
	if err != nil {
		return err
	}
	upstream, err := serve(newUpstream(config.Responses), "", "")
	if err != nil {
		return err
	}
	gateway.upstream = upstream
	relayed, err := gateway.relay()
	if err != nil {
		return err
	}
	addresses := map[string]string{"public": public, "control": control, "upstream": upstream, "relay": relayed}
	if err := json.NewEncoder(os.Stdout).Encode(addresses); err != nil {
		return err
	}
	waitForTheEnd()
	return gateway.Close()
}

// serve listens on an ephemeral port, with TLS if there is a certificate, and returns its host:port.
func serve(handler http.Handler, certificate, key string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		run := func() error { return http.Serve(listener, handler) }
		if certificate != "" {
			run = func() error { return http.ServeTLS(listener, handler, certificate, key) }
		}
		log.Fatal(fmt.Errorf("the listener ended: %w", run()))
	}()
	return listener.Addr().String(), nil
}

func waitForTheEnd() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(closed)
	}()
	select {
	case <-signals:
	case <-closed:
	}
}
