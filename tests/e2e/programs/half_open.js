// `half_open.js clean|leaking`: an echo server with allowHalfOpen. At the peer's 'end' the program
// has to end its side; the leaking one forgets that, and keeps the connection in CLOSE_WAIT.
// Prints `port N`, and ends when stdin ends, with its sockets as they are.
'use strict';
const net = require('net');
const leaking = process.argv[2] === 'leaking';
let ended = 0;

const server = net.createServer({allowHalfOpen: true}, (socket) => {
  socket.on('data', (data) => socket.write(data));
  socket.on('end', () => {
    ended++;
    if (!leaking) socket.end();
  });
  socket.on('error', () => {});
});

server.listen(0, '127.0.0.1', () => console.log('port ' + server.address().port));
process.stdin.resume();
process.stdin.on('end', () => {
  console.log('ended ' + ended);
  process.exit(0);
});
