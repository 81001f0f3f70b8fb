//! HTTP server and client.
//!
//! As a server it serves `GET /`. `port=N` sets the port (default: 80). `requests=N` ends the
//! server after that many requests. `get=HOST:PORT` makes it a client that requests `/` from this
//! server and prints the response. `ip=ADDRESS/BITS` sets its address (default: DHCP).
#![no_std]
#![no_main]

use core::fmt::Write;

use guest_bindings::{ExitStatus, Net, StartInfo, print, println};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use test_unikernels::ip::{Ip, Storage};
use test_unikernels::{failure, number, option, success};

guest_bindings::manifest! { net "service" }
guest_bindings::entry!(main);

/// Maximum number of concurrent clients. Further clients wait.
const CLIENTS: usize = 4;
/// Maximum size of a request's header section in bytes.
const REQUEST: usize = 2048;
/// Maximum size of a response in bytes.
const ANSWER: usize = 1024;
/// Local port of a client (RFC 6335).
const EPHEMERAL: u16 = 49_152;

fn main(start: &StartInfo) -> ExitStatus {
    let net = Net::open("service").unwrap_or_else(|error| failure(error));
    let mut buffers = [([0; REQUEST], [0; ANSWER]); CLIENTS];
    let mut storage = Storage::new();
    let mut ip = Ip::new(net, start, &mut storage);
    let mut buffers = buffers.iter_mut();
    let mut socket = || {
        let (input, output) = buffers.next().unwrap_or_else(|| failure("no buffers left"));
        Socket::new(SocketBuffer::new(&mut input[..]), SocketBuffer::new(&mut output[..]))
    };
    match option(start, "get") {
        Some(server) => {
            let handle = ip.sockets.add(socket());
            get(&mut ip, handle, server);
        }
        None => {
            let handles = [(); CLIENTS].map(|()| ip.sockets.add(socket()));
            let port = option(start, "port").map_or(80, port);
            serve(&mut ip, &handles, port, option(start, "requests").map_or(u64::MAX, number));
        }
    }
    success()
}

fn port(text: &str) -> u16 {
    text.parse().unwrap_or_else(|_| failure(format_args!("'{text}' is not a port")))
}

/// Serves this number of requests.
fn serve(ip: &mut Ip<'_>, handles: &[SocketHandle], port: u16, requests: u64) {
    println!("listening on port {port}");
    let mut answered = 0;
    loop {
        let mut open = 0;
        for handle in handles {
            let socket = ip.sockets.get_mut::<Socket>(*handle);
            match socket.state() {
                State::Closed | State::TimeWait if answered < requests => {
                    // Discards the state of the previous connection.
                    socket.abort();
                    socket.listen(port).unwrap_or_else(|error| failure(error));
                }
                State::Closed | State::TimeWait | State::Listen => continue,
                _ => answered += u64::from(answer(socket)),
            }
            open += usize::from(socket.state() != State::Listen);
        }
        // The last response has been received.
        if answered >= requests && open == 0 {
            return;
        }
        ip.wait();
    }
}

/// Answers the request on a connection after it has been received completely.
fn answer(socket: &mut Socket<'_>) -> bool {
    if !socket.may_send() {
        return false;
    }
    let Ok(request) = socket.peek(REQUEST) else {
        // The client sends no further data.
        socket.close();
        return false;
    };
    let complete = request.windows(4).any(|window| window == b"\r\n\r\n");
    let mut words = request.split(|byte| *byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        _ if !complete && request.len() == REQUEST => ("431 Request Header Fields Too Large", "too much\n"),
        _ if !complete => return false,
        (Some(b"GET"), Some(b"/")) => ("200 OK", "Hello from a unikernel\n"),
        (Some(b"GET"), _) => ("404 Not Found", "only / is here\n"),
        _ => ("405 Method Not Allowed", "only GET is understood\n"),
    };
    let all = socket.recv(|request| (request.len(), ()));
    let written = write!(
        Answer(socket),
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    if all.is_err() || written.is_err() {
        failure("an answer does not fit in its buffer");
    }
    socket.close();
    println!("answered {status}");
    true
}

/// Requests `/` from `server`, a name or an address with a port.
fn get(ip: &mut Ip<'_>, handle: SocketHandle, server: &str) {
    let Some((name, remote)) = server.split_once(':') else { failure(format_args!("'{server}' is not HOST:PORT")) };
    let remote = (ip.resolve(name), port(remote));
    println!("{name} is {}", remote.0);
    ip.connect(handle, remote, EPHEMERAL);
    let mut asked = false;
    loop {
        ip.wait();
        let socket = ip.sockets.get_mut::<Socket>(handle);
        if !asked && socket.can_send() {
            asked = true;
            if write!(Answer(socket), "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").is_err() {
                failure("a request does not fit in its buffer");
            }
        }
        let show = |bytes: &mut [u8]| {
            print!("{}", str::from_utf8(bytes).unwrap_or("(no text)"));
            (bytes.len(), bytes.len())
        };
        while socket.can_recv() && socket.recv(show).is_ok() {}
        match (asked, socket.state()) {
            (false, State::Closed) => failure(format_args!("{server} does not accept connections")),
            (true, _) if !socket.may_recv() => break,
            _ => {}
        }
    }
    // Orderly close of the connection.
    ip.sockets.get_mut::<Socket>(handle).close();
    while !matches!(ip.sockets.get_mut::<Socket>(handle).state(), State::Closed | State::TimeWait) {
        ip.wait();
    }
}

/// Writer for a connection.
struct Answer<'a, 'b>(&'a mut Socket<'b>);

impl Write for Answer<'_, '_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        match self.0.send_slice(text.as_bytes()) {
            Ok(sent) if sent == text.len() => Ok(()),
            _ => Err(core::fmt::Error),
        }
    }
}
