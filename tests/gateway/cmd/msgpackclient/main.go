// Msgpackclient calls a MessagePack-RPC server as a Go program would: net/rpc over the codec of ugorji/go.
//
//	msgpackclient SOCKET < CALLS.json
//
// CALLS is a JSON array of {"method": ..., "params": [...]}. All calls are sent at once on one connection; the answers
// are printed as a JSON array of {"result": ..., "error": ...} in the order of the calls. Types that JSON does not have
// are written as {"$int": "1"}, {"$double": 1.0} and {"$bytes": "base64"}, both ways.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/rpc"
	"os"
	"reflect"

	"github.com/ugorji/go/codec"
)

type call struct {
	Method string `json:"method"`
	Params []any  `json:"params"`
}

type outcome struct {
	Result any    `json:"result"`
	Error  string `json:"error"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: msgpackclient SOCKET < CALLS.json")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(socket string) error {
	var calls []call
	if err := json.NewDecoder(os.Stdin).Decode(&calls); err != nil {
		return fmt.Errorf("calls: %w", err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	handle := &codec.MsgpackHandle{WriteExt: true}
	handle.MapType = reflect.TypeFor[map[string]any]()
	client := rpc.NewClientWithCodec(codec.MsgpackSpecRpc.ClientCodec(conn, handle))
	defer client.Close()
	outcomes, err := pipeline(client, calls)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(outcomes)
}

// pipeline sends every call before it waits for the first answer.
func pipeline(client *rpc.Client, calls []call) ([]outcome, error) {
	results := make([]any, len(calls))
	pending := make([]*rpc.Call, len(calls))
	for at, next := range calls {
		params := codec.MsgpackSpecRpcMultiArgs{}
		for _, param := range next.Params {
			value, err := untag(param)
			if err != nil {
				return nil, err
			}
			params = append(params, value)
		}
		pending[at] = client.Go(next.Method, params, &results[at], make(chan *rpc.Call, 1))
	}
	outcomes := make([]outcome, len(calls))
	for at, sent := range pending {
		<-sent.Done
		if sent.Error != nil {
			outcomes[at].Error = sent.Error.Error()
			continue
		}
		outcomes[at].Result = tag(results[at])
	}
	return outcomes, nil
}
