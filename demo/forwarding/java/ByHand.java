// The JDK alone, by hand: a ThreadLocal keeps the value of the request.
//
//     NEXT=http://backend.service/ PORT=8001 java ByHand.java

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

public class ByHand {
    static final ThreadLocal<String> ENVIRONMENT = new ThreadLocal<>();
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final ExecutorService POOL = Executors.newFixedThreadPool(4);

    static String call() throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(System.getenv("NEXT")));
        if (ENVIRONMENT.get() != null) {
            request.header("x-mayfly", ENVIRONMENT.get());
        }
        return CLIENT.send(request.build(), BodyHandlers.ofString()).body();
    }

    // A thread of a pool has no ThreadLocal of the request. So the task carries the value.
    static <T> Callable<T> inThisEnvironment(Callable<T> task) {
        String value = ENVIRONMENT.get();
        return () -> with(value, task);
    }

    // The thread serves other requests later: without `remove` they would get this value.
    static <T> T with(String value, Callable<T> task) throws Exception {
        ENVIRONMENT.set(value);
        try {
            return task.call();
        } finally {
            ENVIRONMENT.remove();
        }
    }

    static void serve(HttpExchange exchange) throws IOException {
        Callable<String> answer = exchange.getRequestURI().getPath().equals("/pool")
            ? () -> POOL.submit(inThisEnvironment(ByHand::call)).get()
            : ByHand::call;
        try {
            String value = exchange.getRequestHeaders().getFirst("x-mayfly");
            byte[] body = with(value, answer).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
        } catch (Exception error) {
            exchange.sendResponseHeaders(502, -1);
        }
        exchange.close();
    }

    public static void main(String[] arguments) throws IOException {
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT")));
        var server = HttpServer.create(address, 0);
        server.createContext("/", ByHand::serve);
        server.setExecutor(Executors.newFixedThreadPool(16));
        server.start();
    }
}
