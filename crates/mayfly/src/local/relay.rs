//! Ports of this machine that lead through the present ssh connection. They stay the same when ssh
//! connects again, and nobody else can take them meanwhile.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

/// The directory with the sockets of the present connection; none while there is no connection.
pub type Sockets = watch::Receiver<Option<PathBuf>>;

/// Listens at loopback, and leads each connection to the socket of this name. Gives the port: the
/// wanted one if it is free.
///
/// # Errors
/// When nothing can listen at loopback.
pub async fn listen(wanted: u16, socket: String, sockets: Sockets) -> anyhow::Result<u16> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot listen at 127.0.0.1")?,
    };
    let port = listener.local_addr().context("cannot read a local port")?.port();
    tokio::spawn(async move {
        loop {
            let Ok((mut here, _)) = listener.accept().await else {
                // As when all file descriptors are in use: others close theirs.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let place = sockets.borrow().as_ref().map(|directory| directory.join(&socket));
            tokio::spawn(async move {
                // Without a connection the caller finds its own closed, and tries again.
                let Some(place) = place else { return };
                if let Ok(mut there) = UnixStream::connect(place).await {
                    let _ = here.set_nodelay(true);
                    let _ = copy_bidirectional(&mut here, &mut there).await;
                }
            });
        }
    });
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpStream, UnixListener};

    #[tokio::test]
    async fn a_port_leads_to_the_present_socket_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (present, sockets) = watch::channel(None);
        let port = listen(0, "etcd".to_owned(), sockets.clone()).await.unwrap();
        let other = listen(port, "etcd".to_owned(), sockets).await.unwrap();
        assert_ne!(other, port);

        let mut closed = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(closed.read(&mut [0; 1]).await.unwrap_or(0), 0);

        let listener = UnixListener::bind(directory.path().join("etcd")).unwrap();
        present.send_replace(Some(directory.path().to_owned()));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut there, _) = listener.accept().await.unwrap();
        there.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }
}
