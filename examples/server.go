// An echo server that a kaiso router hands its clients to, with nothing but the standard library.
//
//	go build server.go
//	./server /run/echo.sock
//
// and in the router's services directory a file "echo" that says "/run/echo.sock passfd". Each client comes on its own
// connection, the router out of it: the server tells it the address it comes from, and sends back whatever comes.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"syscall"
	"time"
)

func serve(client net.Conn) {
	defer client.Close()
	if peer, ok := client.RemoteAddr().(*net.TCPAddr); ok {
		fmt.Fprintf(client, "%s %d\n", peer.IP, peer.Port)
	} else {
		fmt.Fprintln(client)
	}
	io.Copy(client, client)
}

// receiveClients takes the clients of one router. It keeps a connection for each of its threads, and sends all its
// clients over them: each is one byte with one descriptor.
func receiveClients(router *net.UnixConn) {
	defer router.Close()
	// "More than one, please." A router that sends one client a connection has left by now, with its client in the queue.
	router.Write([]byte("+"))
	data, control := make([]byte, 1), make([]byte, syscall.CmsgSpace(4))
	for {
		count, length, _, _, err := router.ReadMsgUnix(data, control)
		if err != nil || count == 0 {
			return
		}
		client, err := connection(control[:length])
		if err != nil {
			log.Print(err) // at the limit of descriptors the client is lost: keep it high enough
			continue
		}
		go serve(client)
	}
}

// connection makes a net.Conn of the descriptor in a control message.
func connection(control []byte) (net.Conn, error) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("a message without a descriptor")
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "client")
	defer file.Close() // FileConn has a copy of its own
	return net.FileConn(file)
}

// listen replaces the file of an earlier server, where nobody answers any more.
func listen(path string) (*net.UnixListener, error) {
	address := &net.UnixAddr{Name: path, Net: "unix"}
	listener, err := net.ListenUnix("unix", address)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return listener, err
	}
	if _, refused := net.DialUnix("unix", nil, address); !errors.Is(refused, syscall.ECONNREFUSED) {
		return nil, err
	}
	if err = os.Remove(path); err != nil {
		return nil, err
	}
	return net.ListenUnix("unix", address)
}

func main() {
	listener, err := listen(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		router, err := listener.AcceptUnix()
		if err != nil {
			log.Print(err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go receiveClients(router)
	}
}
