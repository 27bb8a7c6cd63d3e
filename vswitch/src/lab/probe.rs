//! The lab's own traffic: TCP and UDP echo, a checked transfer, and a one-stream throughput run.
//!
//! Every socket lives in the namespace it was opened in; the threads that serve end when their owner is dropped.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::enter::within;
use super::error::LabError;

/// How long a probe waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How often a serving thread looks whether it should end.
const GLANCE: Duration = Duration::from_millis(50);
/// Bytes written or read at once.
const CHUNK: usize = 128 * 1024;

/// TCP and UDP echo on port [`Echo::PORT`] of a namespace, in both families.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// The port of RFC 862.
    pub const PORT: u16 = 7;

    /// Starts serving inside `netns`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the port is taken.
    pub fn start(netns: &Path) -> Result<Echo, LabError> {
        let (tcp, udp) = within(netns, || -> Result<_, LabError> {
            Ok((
                listener(Self::PORT)?,
                socket(Type::DGRAM, Self::PORT).map_err(LabError::socket("UDP echo"))?,
            ))
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp_stop, udp_stop) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, &tcp_stop)),
            std::thread::spawn(move || serve_udp(&UdpSocket::from(udp), &udp_stop)),
        ];
        Ok(Echo { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A serving thread that panicked has nothing left to give back.
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &Socket, stop: &AtomicBool) {
    let mut buffer = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else { continue };
        let mut stream = TcpStream::from(stream);
        let _ = stream.set_read_timeout(Some(GLANCE));
        // A silent client keeps its connection: what happens to it meanwhile may be the test.
        while !stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(n @ 1..) if stream.write_all(&buffer[..n]).is_ok() => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                _ => break,
            }
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

/// One socket for both families on `port`; receiving gives up every [`GLANCE`].
fn socket(kind: Type, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(GLANCE))?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn listener(port: u16) -> Result<Socket, LabError> {
    let open = || {
        let listener = socket(Type::STREAM, port)?;
        listener.listen(64)?;
        Ok(listener)
    };
    open().map_err(LabError::socket("TCP listener"))
}

/// Connects from `netns` to `to`, with cubic: the default here may be BBR, whose pacing timers measure the machine
/// and not the path.
fn connect(netns: &Path, to: SocketAddr, patience: Duration) -> Result<TcpStream, LabError> {
    within(netns, || {
        let open = || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_tcp_congestion(b"cubic")?;
            socket.connect_timeout(&to.into(), patience)?;
            socket.set_write_timeout(Some(patience))?;
            socket.set_read_timeout(Some(patience))?;
            Ok(TcpStream::from(socket))
        };
        open().map_err(LabError::socket("TCP connect"))
    })?
}

/// Sends a line over TCP to the echo server at `to` and returns the time from before the connection to after the answer.
///
/// # Errors
/// When the connection fails or times out (3 s), or other bytes come back.
pub fn tcp_echo(netns: &Path, to: IpAddr) -> Result<Duration, LabError> {
    tcp_echo_in(netns, to, PATIENCE)
}

/// As [`tcp_echo`], where each step may take `patience`.
pub(super) fn tcp_echo_in(netns: &Path, to: IpAddr, patience: Duration) -> Result<Duration, LabError> {
    let began = Instant::now();
    let mut stream = connect(netns, SocketAddr::new(to, Echo::PORT), patience)?;
    let line = pattern(to, 64);
    let mut answer = vec![0; line.len()];
    stream
        .write_all(&line)
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(LabError::socket("TCP echo"))?;
    if answer == line { Ok(began.elapsed()) } else { Err(LabError::Corrupt { to }) }
}

/// Sends one datagram of `size` bytes to the echo server at `to`, and waits for it to come back (3 s).
///
/// # Errors
/// When nothing or something else comes back, or an ICMP error does.
pub fn udp_echo(netns: &Path, to: IpAddr, size: usize) -> Result<Duration, LabError> {
    udp_echo_in(netns, to, size, PATIENCE)
}

/// As [`udp_echo`], where the answer may take `patience`.
pub(super) fn udp_echo_in(
    netns: &Path,
    to: IpAddr,
    size: usize,
    patience: Duration,
) -> Result<Duration, LabError> {
    let began = Instant::now();
    let datagram = pattern(to, size);
    let answer = within(netns, || -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind(any(to))?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect((to, Echo::PORT))?;
        socket.send(&datagram)?;
        let mut answer = vec![0; 65_536];
        let n = socket.recv(&mut answer)?;
        answer.truncate(n);
        Ok(answer)
    })?
    .map_err(LabError::socket("UDP echo"))?;
    if answer == datagram { Ok(began.elapsed()) } else { Err(LabError::Corrupt { to }) }
}

/// Whether a datagram from `source` (an address of `netns`) to a socket in `far` at `to` stays away: true when none of
/// three arrived within 300 ms.
///
/// # Errors
/// When a socket cannot be opened or bound; that sending is refused counts as staying away.
pub fn udp_silence(netns: &Path, source: IpAddr, far: &Path, to: IpAddr) -> Result<bool, LabError> {
    const PORT: u16 = 9009;
    let receiver = within(far, || socket(Type::DGRAM, PORT))?.map_err(LabError::socket("UDP receiver"))?;
    let sender = within(netns, || UdpSocket::bind((source, 0)))?.map_err(LabError::socket("UDP sender"))?;
    for _ in 0..3 {
        let _ = sender.send_to(b"must not arrive", (to, PORT));
    }
    receiver.set_read_timeout(Some(Duration::from_millis(300))).map_err(LabError::socket("UDP receiver"))?;
    Ok(UdpSocket::from(receiver).recv(&mut [0; 64]).is_err())
}

/// What a throughput run moved.
#[derive(Clone, Copy, Debug)]
pub struct Blast {
    /// Bytes the receiver got.
    pub bytes: u64,
    /// From its first byte to its last.
    pub elapsed: Duration,
}

impl Blast {
    /// Gigabits per second.
    #[allow(clippy::cast_precision_loss)] // byte counts here stay far below 2^52
    pub fn gbit_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9) / 1e9
    }
}

/// One TCP stream (cubic) from `netns` to a sink it opens in `far` at `to`, for `length`.
///
/// # Errors
/// When the connection fails or stalls for 3 s.
pub fn blast(netns: &Path, far: &Path, to: IpAddr, length: Duration) -> Result<Blast, LabError> {
    const PORT: u16 = 9010;
    let listener = within(far, || listener(PORT))??;
    std::thread::scope(|scope| {
        let sink = scope.spawn(|| drain(&listener));
        let sent = connect(netns, SocketAddr::new(to, PORT), PATIENCE).and_then(|mut stream| {
            let (chunk, began) = (vec![0x5a; CHUNK], Instant::now());
            while began.elapsed() < length {
                stream.write_all(&chunk).map_err(LabError::socket("TCP stream"))?;
            }
            Ok(())
        });
        let drained = sink.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.and(drained)
    })
}

fn drain(listener: &Socket) -> Result<Blast, LabError> {
    let mut stream = accept(listener)?;
    let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
    let began = Instant::now();
    loop {
        match stream.read(&mut buffer).map_err(LabError::socket("TCP sink"))? {
            0 => return Ok(Blast { bytes, elapsed: began.elapsed() }),
            n => bytes += n as u64,
        }
    }
}

/// Sends `bytes` pseudo-random bytes over TCP (cubic) from `netns` to a receiver it opens in `far` at `to`, which makes the
/// same bytes itself and compares every one.
///
/// # Errors
/// [`LabError::Corrupt`] at the first wrong byte, [`LabError::Short`] when the stream ends early, a socket's error
/// otherwise.
pub fn transfer(netns: &Path, far: &Path, to: IpAddr, bytes: u64) -> Result<Blast, LabError> {
    const PORT: u16 = 9011;
    let listener = within(far, || listener(PORT))??;
    std::thread::scope(|scope| {
        let check = scope.spawn(|| verify(&listener, to, bytes));
        let sent = connect(netns, SocketAddr::new(to, PORT), PATIENCE).and_then(|mut stream| {
            stream
                .set_write_timeout(Some(Duration::from_secs(30)))
                .map_err(LabError::socket("TCP stream"))?;
            let (mut noise, mut chunk, mut left) = (Noise(1), vec![0; CHUNK], bytes);
            while left > 0 {
                let n = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                noise.fill(&mut chunk);
                stream.write_all(&chunk[..n]).map_err(LabError::socket("TCP stream"))?;
                left -= n as u64;
            }
            Ok(())
        });
        let checked = check.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.and(checked)
    })
}

fn verify(listener: &Socket, to: IpAddr, want: u64) -> Result<Blast, LabError> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(LabError::socket("TCP sink"))?;
    let (mut noise, mut expected, mut buffer) = (Noise(1), vec![0; CHUNK], vec![0; CHUNK]);
    let (mut got, began) = (0, Instant::now());
    while got < want {
        let n = usize::try_from(want - got).unwrap_or(CHUNK).min(CHUNK);
        noise.fill(&mut expected);
        match stream.read_exact(&mut buffer[..n]) {
            Ok(()) if buffer[..n] == expected[..n] => got += n as u64,
            Ok(()) => return Err(LabError::Corrupt { to }),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LabError::Short { to, got, want });
            }
            Err(e) => return Err(LabError::Socket { step: "TCP sink", source: e }),
        }
    }
    Ok(Blast { bytes: got, elapsed: began.elapsed() })
}

fn accept(listener: &Socket) -> Result<TcpStream, LabError> {
    let patient = || {
        listener.set_read_timeout(Some(PATIENCE + PATIENCE))?;
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(TcpStream::from(stream))
    };
    patient().map_err(LabError::socket("TCP accept"))
}

fn any(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Bytes that differ by target, so that an answer from elsewhere is noticed.
fn pattern(to: IpAddr, size: usize) -> Vec<u8> {
    let seed = match to {
        IpAddr::V4(a) => u64::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits().rotate_left(64) as u64 ^ a.to_bits() as u64,
    };
    let mut bytes = vec![0; size];
    Noise(seed | 1).fill(&mut bytes);
    bytes
}

/// A xorshift generator: cheap enough not to be what a transfer measures.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_differ_by_target() {
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_ne!(pattern(a, 64), pattern(b, 64));
        assert_eq!(pattern(a, 64), pattern(a, 64));
        assert_eq!(pattern(a, 13).len(), 13);
    }

    #[test]
    fn throughput_is_bits_per_second() {
        let blast = Blast { bytes: 1_250_000_000, elapsed: Duration::from_secs(1) };
        assert!((blast.gbit_s() - 10.0).abs() < 1e-9);
    }
}
