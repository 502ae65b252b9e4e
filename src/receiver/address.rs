//! Addresses of clients, as limits count them.

use std::net::{IpAddr, Ipv6Addr};

/// The address that limits count by. An IPv6 address is reduced to its /64 network, because one
/// client usually controls a whole /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    // A socket for both protocols shows IPv4 clients as `::ffff:a.b.c.d`. All of them are in one
    // /64, so without this they would share one limit.
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let high = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(high).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}
