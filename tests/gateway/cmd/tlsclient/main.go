// Tlsclient calls one hook over TLS, as a Go program with stock libraries would.
//
//	tlsclient HOST:PORT CA [CERT KEY] < OBJECT
//
// OBJECT is a serialized coprocess.Object. What comes back is printed: the headers that the hook set, or the error.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"tykpy.test/gateway/internal/coprocess"
)

// patience is the timeout of the call; a refused handshake is reported at once.
const patience = 20 * time.Second

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 && len(os.Args) != 5 {
		log.Fatal("usage: tlsclient HOST:PORT CA [CERT KEY] < OBJECT")
	}
	config, err := configuration(os.Args[2], os.Args[3:])
	if err != nil {
		log.Fatal(err)
	}
	headers, err := call(os.Args[1], config)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Println("headers:", headers)
}

func configuration(ca string, pair []string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New(ca + ": no certificate")
	}
	config := &tls.Config{RootCAs: roots}
	if len(pair) == 2 {
		certificate, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

func call(address string, config *tls.Config) (map[string]string, error) {
	serialized, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	object := &coprocess.Object{}
	if err := proto.Unmarshal(serialized, object); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := coprocess.NewDispatcherClient(conn).Dispatch(ctx, object)
	if err != nil {
		return nil, err
	}
	return answer.GetRequest().GetSetHeaders(), nil
}
