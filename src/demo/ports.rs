//! Where the demo's parts listen: a base plus the contract's offsets, 100 apart for each node; or free ports, chosen
//! before the nodes start, since a node's name holds its port and a restarted node must be found where it was.

use std::net::{Ipv4Addr, SocketAddr};

use crate::cli::Failure;
use crate::processes::free_ports;

/// Offsets from the base.
const PROXY: u16 = 0;
const QUERY_HTTP: u16 = 40;
const QUERY_FLIGHT_SQL: u16 = 41;
const QUERY_POSTGRES: u16 = 42;
const OTLP_GRPC: u16 = 317;
const OTLP_HTTP: u16 = 318;
const NODE_API: u16 = 319;
/// Distance between two nodes.
const PER_NODE: u16 = 100;

/// Addresses of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodePorts {
    pub(crate) proxy: SocketAddr,
    pub(crate) otlp_grpc: SocketAddr,
    pub(crate) otlp_http: SocketAddr,
    pub(crate) node_api: SocketAddr,
}

/// Addresses of the query service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueryPorts {
    pub(crate) http: SocketAddr,
    pub(crate) flight_sql: SocketAddr,
    pub(crate) postgres: SocketAddr,
}

/// Addresses of the whole demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) nodes: Vec<NodePorts>,
    pub(crate) query: QueryPorts,
}

/// Listeners of a node, and of the query service.
const OF_NODE: [u16; 4] = [PROXY, OTLP_GRPC, OTLP_HTTP, NODE_API];
const OF_QUERY: [u16; 3] = [QUERY_HTTP, QUERY_FLIGHT_SQL, QUERY_POSTGRES];

/// Chooses all addresses; a base of 0 means ports that are free now.
pub(crate) fn choose(base: u16, nodes: u16) -> Result<Ports, Failure> {
    let of_nodes = (0..nodes).flat_map(|number| OF_NODE.map(|offset| (number, offset)));
    let all: Vec<(u16, u16)> = of_nodes.chain(OF_QUERY.map(|offset| (0, offset))).collect();
    let ports = match base {
        0 => free_ports(all.len())?,
        base => all.iter().map(|(number, offset)| port(base, *number, *offset)).collect::<Result<_, _>>()?,
    };
    let addresses: Vec<SocketAddr> =
        ports.into_iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).collect();
    let (of_nodes, of_query) = addresses.split_at(addresses.len() - OF_QUERY.len());
    let nodes = of_nodes.chunks_exact(OF_NODE.len()).filter_map(|chunk| match *chunk {
        [proxy, otlp_grpc, otlp_http, node_api] => Some(NodePorts { proxy, otlp_grpc, otlp_http, node_api }),
        _ => None,
    });
    let [http, flight_sql, postgres] = *of_query else { return Err(too_high()) };
    Ok(Ports { nodes: nodes.collect(), query: QueryPorts { http, flight_sql, postgres } })
}

fn port(base: u16, number: u16, offset: u16) -> Result<u16, Failure> {
    let shift = number.checked_mul(PER_NODE).and_then(|shift| shift.checked_add(offset)).ok_or_else(too_high)?;
    base.checked_add(shift).ok_or_else(too_high)
}

fn too_high() -> Failure {
    Failure::Usage("the last port would be above 65535: choose a lower --port-base or fewer --nodes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_base_plus_offset_and_a_hundred_a_node() {
        let ports = choose(4000, 3).unwrap();
        let (first, third) = (ports.nodes[0], ports.nodes[2]);
        assert_eq!((first.proxy.port(), first.otlp_grpc.port(), first.node_api.port()), (4000, 4317, 4319));
        assert_eq!((third.proxy.port(), third.otlp_http.port(), third.node_api.port()), (4200, 4518, 4519));
        let query = ports.query;
        assert_eq!((query.http.port(), query.flight_sql.port(), query.postgres.port()), (4040, 4041, 4042));
    }

    #[test]
    fn free_ports_are_all_different_and_none_that_the_system_gives_to_others() {
        let ports = choose(0, 64).unwrap();
        let of_nodes = ports.nodes.iter().flat_map(|node| [node.proxy, node.otlp_grpc, node.otlp_http, node.node_api]);
        let all: std::collections::BTreeSet<u16> = of_nodes.map(|address| address.port()).collect();
        assert_eq!(all.len(), 256);
        assert!(all.iter().all(|port| (15_000..32_000).contains(port)), "{all:?}");
    }

    #[test]
    fn a_base_too_high_is_a_usage_error() {
        assert!(matches!(choose(65_500, 4), Err(Failure::Usage(_))));
    }
}
