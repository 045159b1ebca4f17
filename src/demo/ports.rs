//! Where the demo's parts listen: a base plus the contract's offsets, 100 apart for each node; or free ports, chosen
//! before the nodes start, since a node's name holds its port and a restarted node must be found where it was.

use std::net::{Ipv4Addr, SocketAddr};

use crate::cli::Failure;
use crate::processes::free_port;

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

/// Addresses of node `number`.
pub(crate) fn of_node(base: u16, number: u16) -> Result<NodePorts, Failure> {
    let shift = number.checked_mul(PER_NODE).ok_or_else(too_high)?;
    let at = |offset: u16| address(base, shift, offset);
    Ok(NodePorts { proxy: at(PROXY)?, otlp_grpc: at(OTLP_GRPC)?, otlp_http: at(OTLP_HTTP)?, node_api: at(NODE_API)? })
}

/// Addresses of the query service.
pub(crate) fn of_query(base: u16) -> Result<QueryPorts, Failure> {
    Ok(QueryPorts {
        http: address(base, 0, QUERY_HTTP)?,
        flight_sql: address(base, 0, QUERY_FLIGHT_SQL)?,
        postgres: address(base, 0, QUERY_POSTGRES)?,
    })
}

fn address(base: u16, shift: u16, offset: u16) -> Result<SocketAddr, Failure> {
    let port = match base {
        0 => free_port()?,
        base => base.checked_add(shift).and_then(|port| port.checked_add(offset)).ok_or_else(too_high)?,
    };
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn too_high() -> Failure {
    Failure::Usage("the last port would be above 65535: choose a lower --port-base or fewer --nodes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_base_plus_offset_and_a_hundred_a_node() {
        let first = of_node(4000, 0).unwrap();
        let third = of_node(4000, 2).unwrap();
        assert_eq!((first.proxy.port(), first.otlp_grpc.port(), first.node_api.port()), (4000, 4317, 4319));
        assert_eq!((third.proxy.port(), third.otlp_http.port(), third.node_api.port()), (4200, 4518, 4519));
        assert_eq!(of_query(4000).unwrap().http.port(), 4040);
    }

    #[test]
    fn a_base_too_high_is_a_usage_error() {
        assert!(matches!(of_node(65_500, 3), Err(Failure::Usage(_))));
    }
}
