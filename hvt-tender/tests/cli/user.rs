//! User-mode networking: a guest that others reach through a port of the host's loopback, and that reaches others there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use super::{assert_fails, guest, tender, text};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_guest_is_reached_through_a_port() {
    let mut command = tender();
    // Without -v: the port is known from the log alone. The limit ends a tender that does not name it.
    command.args(["--timeout=60", "--mem=32", "--backend=process", "--net:service=user", "--forward=tcp:0:80"]);
    command.arg(guest("http")).arg("requests=2").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tender = command.spawn().unwrap();
    let mut log = BufReader::new(tender.stderr.take().unwrap());
    let mut line = String::new();
    let address: SocketAddr = loop {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the tender does not say where the guest is");
        if let Some((_, address)) = line.split_once("port 80 of the guest is at ") {
            break address.trim().parse().unwrap();
        }
    };
    // At once: who comes before the guest is there waits for it.
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("Hello from a unikernel\n"), "{answer}");
    }
    let output = tender.wait_with_output().unwrap();
    let console = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{console}");
    assert!(console.contains("address 10.0.2.15/24\n"), "{console}");
}

#[test]
fn a_guest_reaches_the_hosts_loopback() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut command = tender();
    command.args(["--mem=32", "--backend=process", "--net=user", &format!("--host-loopback={port}")]);
    command.arg(guest("http")).arg(format!("get=10.0.2.2:{port}")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let tender = command.spawn().unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut request).unwrap(), 0, "{request}");
    }
    assert!(request.starts_with("GET / HTTP/1.1\r\n"), "{request}");
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\nHello from the host\n").unwrap();
    drop(stream);
    let output = tender.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("Hello from the host\n"));
}

#[test]
fn the_hosts_loopback_is_closed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = format!("--host-loopback={}", if port == 1 { 2 } else { 1 });
    for options in [&[][..], &[other.as_str()]] {
        let mut command = tender();
        command.args(["--mem=32", "--backend=process", "--net=user"]).args(options).arg(guest("http"));
        let output = command.arg(format!("get=10.0.2.2:{port}")).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert!(listener.accept().is_err());
    }
}

#[test]
fn what_cannot_be_had_is_said() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    for (options, words) in [
        (vec!["--net=user", &format!("--forward=tcp:{}:80", address.port())], format!("cannot listen at {address}")),
        (
            vec!["--net=none", "--forward=tcp:0:80"],
            "--forward: net device 'service' has no user-mode networking".into(),
        ),
        (vec!["--net=user", "--forward=other=tcp:0:80"], "--forward: net device 'other' not declared".into()),
        (
            vec!["--net=none", "--host-loopback=all"],
            "--host-loopback: net device 'service' has no user-mode networking, for which say --net service=user"
                .into(),
        ),
        (vec!["--net=none", "--net-allow=169.254.169.254"], "--net-allow: net device 'service' has no".into()),
        (vec!["--net=user", "--net-allow=192.0.2.1"], "192.0.2.1 cannot be allowed: only link-local and".into()),
        (vec!["--net=user", "--virtual-time"], "cannot live in virtual time".into()),
    ] {
        let mut command = tender();
        let output =
            command.args(["--mem=32", "--backend=process"]).args(&options).arg(guest("http")).output().unwrap();
        assert_fails(&output, 1, &words);
    }
}
