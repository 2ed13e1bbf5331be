// RestTemplate of Spring with an interceptor. The server is the JDK's, so that the file runs alone.
//
//     NEXT=http://backend.service/ PORT=8001 java -cp 'lib/*' Spring.java

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.concurrent.Executors;
import org.springframework.http.HttpRequest;
import org.springframework.http.client.ClientHttpRequestExecution;
import org.springframework.http.client.ClientHttpRequestInterceptor;
import org.springframework.http.client.ClientHttpResponse;
import org.springframework.web.client.RestTemplate;

public class Spring {
    static final ThreadLocal<String> ENVIRONMENT = new ThreadLocal<>();

    static class Forward implements ClientHttpRequestInterceptor {
        @Override
        public ClientHttpResponse intercept(
                HttpRequest request, byte[] body, ClientHttpRequestExecution execution)
                throws IOException {
            if (ENVIRONMENT.get() != null) {
                request.getHeaders().set("x-mayfly", ENVIRONMENT.get());
            }
            return execution.execute(request, body);
        }
    }

    static void serve(RestTemplate client, HttpExchange exchange) throws IOException {
        // In Spring Boot a OncePerRequestFilter does this around `chain.doFilter`.
        ENVIRONMENT.set(exchange.getRequestHeaders().getFirst("x-mayfly"));
        try {
            byte[] body = client.getForObject(System.getenv("NEXT"), String.class).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
        } finally {
            ENVIRONMENT.remove();
            exchange.close();
        }
    }

    public static void main(String[] arguments) throws IOException {
        var client = new RestTemplate();
        client.setInterceptors(List.of(new Forward()));
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT")));
        var server = HttpServer.create(address, 0);
        server.createContext("/", exchange -> serve(client, exchange));
        server.setExecutor(Executors.newFixedThreadPool(16));
        server.start();
    }
}
