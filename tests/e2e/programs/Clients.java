import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import com.sun.net.httpserver.HttpServer;

/**
 * Clean: an HTTP server and client of the JDK, channels, a read that another thread's close
 * interrupts, a read that times out, and a child process. All is closed at the end.
 */
public class Clients {
    static void http() throws Exception {
        HttpServer server = HttpServer.create(
            new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 50);
        server.createContext("/", exchange -> {
            byte[] answer = "answer".getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
        HttpClient client = HttpClient.newHttpClient();
        URI uri = URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/");
        int right = 0;
        for (int i = 0; i < 20; i++) {
            HttpResponse<String> answer = client.send(HttpRequest.newBuilder(uri).build(),
                                                      HttpResponse.BodyHandlers.ofString());
            right += answer.body().equals("answer") ? 1 : 0;
        }
        server.stop(0);
        System.out.println(right + " answers are right");
    }

    static void channels() throws Exception {
        try (ServerSocketChannel listener = ServerSocketChannel.open()) {
            listener.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0));
            try (SocketChannel client = SocketChannel.open(listener.getLocalAddress());
                 SocketChannel server = listener.accept()) {
                client.write(ByteBuffer.wrap("question".getBytes()));
                client.shutdownOutput();
                ByteBuffer buffer = ByteBuffer.allocate(100);
                while (server.read(buffer) != -1) {
                    continue;
                }
                System.out.println("channel got " + buffer.position() + " bytes");
            }
        }
    }

    /** The JDK interrupts a read by closing: dup2 of a marker over the fd, and a signal. */
    static void closedByAnother() throws Exception {
        try (java.net.ServerSocket listener =
                 new java.net.ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
             Socket client = new Socket("127.0.0.1", listener.getLocalPort());
             Socket server = listener.accept()) {
            Thread reader = new Thread(() -> {
                try {
                    client.getInputStream().read();
                } catch (Exception e) {
                    System.out.println("read ended by " + e.getClass().getName());
                }
            });
            reader.start();
            while (reader.getState() == Thread.State.NEW) {
                Thread.onSpinWait();
            }
            Thread.sleep(50);
            client.close();
            reader.join();
            server.setSoTimeout(50);
            System.out.println("the other side reads " + server.getInputStream().read());
        }
    }

    static void timeOut() throws Exception {
        try (java.net.ServerSocket listener =
                 new java.net.ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
             Socket client = new Socket("127.0.0.1", listener.getLocalPort());
             Socket server = listener.accept()) {
            client.setSoTimeout(50);
            try {
                client.getInputStream().read();
            } catch (SocketTimeoutException e) {
                System.out.println("timed out");
            }
        }
    }

    static void child() throws Exception {
        Process process = new ProcessBuilder("/bin/echo", "a child").start();
        try (InputStream output = process.getInputStream()) {
            System.out.print(new String(output.readAllBytes()));
        }
        System.out.println("exit value " + process.waitFor());
    }

    public static void main(String[] arguments) throws Exception {
        channels();
        closedByAnother();
        timeOut();
        child();
        http();
        System.exit(0); // the HTTP client's threads have no end of their own
    }
}
