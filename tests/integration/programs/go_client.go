// Gets COUNT URLs, 50 at a time, each over a connection of its own: `go_client URL COUNT`. Says how many answers were right.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

func main() {
	count, _ := strconv.Atoi(os.Args[2])
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	numbers := make(chan int)
	var right int64
	var workers sync.WaitGroup
	for worker := 0; worker < 50; worker++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for number := range numbers {
				response, err := client.Get(fmt.Sprintf("%s/%d", os.Args[1], number))
				if err != nil {
					fmt.Println(err)
					continue
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err == nil && string(body) == fmt.Sprintf("hello /%d\n", number) {
					atomic.AddInt64(&right, 1)
				}
			}
		}()
	}
	for number := 0; number < count; number++ {
		numbers <- number
	}
	close(numbers)
	workers.Wait()
	fmt.Println(right, "right")
}
