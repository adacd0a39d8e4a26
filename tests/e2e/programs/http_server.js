// A clean HTTP server and 40 clients of it in one process, with kept-alive and short connections, and
// a child whose pipes are sockets. It ends by itself when all is closed.
'use strict';
const http = require('http');
const {execFile} = require('child_process');

const CLIENTS = 40;
const agent = new http.Agent({keepAlive: true, maxSockets: 5});

const server = http.createServer((request, response) => {
  response.end(request.url.repeat(1000));
});

function get(port, number) {
  return new Promise((resolve, reject) => {
    const options = {port, host: '127.0.0.1', path: '/' + number};
    if (number % 2) options.agent = agent;
    const request = http.get(options, (response) => {
      let length = 0;
      response.on('data', (data) => { length += data.length; });
      response.on('end', () => resolve(length));
    });
    request.on('error', reject);
  });
}

server.listen(0, '127.0.0.1', async () => {
  const {port} = server.address();
  const lengths = await Promise.all([...Array(CLIENTS).keys()].map((n) => get(port, n)));
  console.log('bytes', lengths.reduce((sum, length) => sum + length, 0));
  execFile('/bin/echo', ['a child'], (error, stdout) => {
    console.log(stdout.trim());
    agent.destroy();
    server.close(() => console.log('closed'));
  });
});
