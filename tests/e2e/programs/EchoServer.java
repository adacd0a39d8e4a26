import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * `EchoServer clean|leaking`: a thread per connection. The leaking one keeps the Socket after read()
 * returned -1, where no garbage collector can reach it. Prints `port N`; when stdin ends, it prints
 * what it kept and ends with its sockets as they are.
 */
public class EchoServer {
    static final List<Socket> kept = Collections.synchronizedList(new ArrayList<>());

    static void serve(Socket socket, boolean leaking) {
        byte[] buffer = new byte[4096];
        try {
            InputStream in = socket.getInputStream();
            for (int length; (length = in.read(buffer)) != -1;) {
                socket.getOutputStream().write(buffer, 0, length);
            }
            if (leaking) {
                kept.add(socket);
            } else {
                socket.close();
            }
        } catch (IOException e) {
            throw new RuntimeException(e);
        }
    }

    static void acceptAll(ServerSocket listener, boolean leaking) {
        try {
            while (true) {
                Socket socket = listener.accept();
                Thread thread = new Thread(() -> serve(socket, leaking));
                thread.setDaemon(true);
                thread.start();
            }
        } catch (IOException e) {
            System.out.println("the listener is closed");
        }
    }

    public static void main(String[] arguments) throws Exception {
        boolean leaking = arguments[0].equals("leaking");
        ServerSocket listener = new ServerSocket(0, 100, InetAddress.getByName("127.0.0.1"));
        Thread acceptor = new Thread(() -> acceptAll(listener, leaking));
        acceptor.start();
        System.out.println("port " + listener.getLocalPort());
        while (System.in.read() != -1) {
            continue;
        }
        listener.close(); // while the acceptor waits in accept
        acceptor.join();
        System.out.println("kept " + kept.size());
    }
}
