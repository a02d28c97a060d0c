// Command centrifuge-peer is a fan-out server on the centrifuge library, made to be loaded beside the gateway.
//
// Subscribers connect to /connection/websocket (JSON protocol, anonymous) and subscribe to the channel "fan".
// POST /publish {"first", "count", "text"} publishes frames of the form that the load test audits.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
)

const channel = "fan"

type publish struct {
	First uint64 `json:"first"`
	Count uint64 `json:"count"`
	Text  string `json:"text"`
}

type content struct {
	Text string `json:"text"`
}

type data struct {
	Content content `json:"content"`
}

type entry struct {
	Seq  uint64 `json:"seq"`
	Data data   `json:"data"`
}

type frame struct {
	Op    string `json:"op"`
	Event entry  `json:"event"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen at")
	flag.Parse()
	if err := run(*listen); err != nil {
		log.Fatal(err)
	}
}

func run(listen string) error {
	node, err := centrifuge.New(centrifuge.Config{
		LogLevel: centrifuge.LogLevelError,
		// A whole burst of the load test fits before a slow client is cut off.
		ClientQueueMaxSize: 64 << 20,
	})
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(event centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			if event.Channel != channel {
				answer(centrifuge.SubscribeReply{}, centrifuge.ErrorUnknownChannel)
				return
			}
			answer(centrifuge.SubscribeReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		ReadBufferSize:     4096,
		UseWriteBufferPool: true,
		CheckOrigin:        func(*http.Request) bool { return true },
	}))
	mux.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		var wanted publish
		if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for seq := wanted.First; seq < wanted.First+wanted.Count; seq++ {
			text, err := json.Marshal(frame{Op: "event", Event: entry{Seq: seq, Data: data{content{wanted.Text}}}})
			if err == nil {
				_, err = node.Publish(channel, text)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	})

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("centrifuge listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ended.Done():
		return server.Close()
	}
}
