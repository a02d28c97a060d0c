//! The servers of the fault tests do what they are told.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::house::{Case, Cluster, House, cases, cql_settings};

/// The protocol's `OPTIONS`, which needs no login.
const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];

/// Whether a node answers, and if not, why.
fn asked(cluster: &Cluster, node: usize) -> Result<(), ErrorKind> {
    let address = &cluster.contact_points()[node - 1];
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&OPTIONS)?;
        stream.read_exact(&mut [0; 9])
    };
    ask().map_err(|error: std::io::Error| error.kind())
}

async fn a_node_is_stopped_killed_paused_and_brought_back() {
    let cluster = Cluster::start(1).await;
    assert_eq!(asked(&cluster, 1), Ok(()));
    cluster.pause(1).await;
    assert_eq!(asked(&cluster, 1), Err(ErrorKind::WouldBlock));
    cluster.resume(1).await;
    for is_killed in [true, false] {
        if is_killed {
            cluster.kill(1).await;
        } else {
            cluster.stop(1).await;
        }
        assert_eq!(asked(&cluster, 1), Err(ErrorKind::ConnectionRefused));
        cluster.start_one(1).await;
        assert_eq!(asked(&cluster, 1), Ok(()));
    }
    let house = House::open_on(|data| cql_settings(data, &cluster.contact_points()), "").await;
    house.device("one").await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![a_node_is_stopped_killed_paused_and_brought_back.cql()];
