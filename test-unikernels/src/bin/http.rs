//! Speaks HTTP.
//!
//! As a server it answers `GET /`; with `port=N` elsewhere than at port 80, with `requests=N` until it has answered so
//! many. With `get=HOST:PORT` it is a client: asks that server for `/` and shows the answer. Its address is that of
//! `ip=ADDRESS/BITS`, or of DHCP.
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

/// Clients that are served at a time; others wait.
const CLIENTS: usize = 4;
/// Bytes of a request's head.
const REQUEST: usize = 2048;
/// Bytes of an answer.
const ANSWER: usize = 1024;
/// Where a client's own port lies (RFC 6335).
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
    text.parse().unwrap_or_else(|_| failure(format_args!("'{text}' is no port")))
}

/// Answers so many requests.
fn serve(ip: &mut Ip<'_>, handles: &[SocketHandle], port: u16, requests: u64) {
    println!("listening on port {port}");
    let mut answered = 0;
    loop {
        let mut open = 0;
        for handle in handles {
            let socket = ip.sockets.get_mut::<Socket>(*handle);
            match socket.state() {
                State::Closed | State::TimeWait if answered < requests => {
                    // What is left of the last connection.
                    socket.abort();
                    socket.listen(port).unwrap_or_else(|error| failure(error));
                }
                State::Closed | State::TimeWait | State::Listen => continue,
                _ => answered += u64::from(answer(socket)),
            }
            open += usize::from(socket.state() != State::Listen);
        }
        // The last answer has been received.
        if answered >= requests && open == 0 {
            return;
        }
        ip.wait();
    }
}

/// Answers the request on a connection, once all of it is there.
fn answer(socket: &mut Socket<'_>) -> bool {
    if !socket.may_send() {
        return false;
    }
    let Ok(request) = socket.peek(REQUEST) else {
        // Nothing will come any more.
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

/// Asks `server`, a name or address with a port, for `/`.
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
    // Says goodbye in good order.
    ip.sockets.get_mut::<Socket>(handle).close();
    while !matches!(ip.sockets.get_mut::<Socket>(handle).state(), State::Closed | State::TimeWait) {
        ip.wait();
    }
}

/// Writes to a connection.
struct Answer<'a, 'b>(&'a mut Socket<'b>);

impl Write for Answer<'_, '_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        match self.0.send_slice(text.as_bytes()) {
            Ok(sent) if sent == text.len() => Ok(()),
            _ => Err(core::fmt::Error),
        }
    }
}
