// net/http alone, by hand: the context keeps the value of the request.
//
//	NEXT=http://backend.service/ PORT=8001 go run .
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
)

type key struct{}

// remember is a middleware that keeps the value for all that the request does.
func remember(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), key{}, r.Header.Get("x-mayfly"))
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// forward sets the header on each call that has the context of a request.
type forward struct{ http.RoundTripper }

func (f forward) RoundTrip(r *http.Request) (*http.Response, error) {
	if value, _ := r.Context().Value(key{}).(string); value != "" {
		r = r.Clone(r.Context())
		r.Header.Set("x-mayfly", value)
	}
	return f.RoundTripper.RoundTrip(r)
}

var client = http.Client{Transport: forward{http.DefaultTransport}}

func call(w http.ResponseWriter, r *http.Request) {
	// http.NewRequest, without the context, would lose the value.
	request, err := http.NewRequestWithContext(r.Context(), "GET", os.Getenv("NEXT"), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer, err := client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	io.Copy(w, answer.Body)
}

func main() {
	address := "127.0.0.1:" + os.Getenv("PORT")
	log.Fatal(http.ListenAndServe(address, remember(http.HandlerFunc(call))))
}
