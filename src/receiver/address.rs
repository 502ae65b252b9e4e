//! Client addresses, in the form that limits use.

use std::net::{IpAddr, Ipv6Addr};

/// The address that limits count a client under. An IPv6 address is reduced to its /64 network,
/// because one client usually controls a whole /64.
pub(crate) fn limit_address(address: IpAddr) -> IpAddr {
    // A dual-stack socket shows IPv4 clients as `::ffff:a.b.c.d`. All of these addresses are in one
    // /64, so without this conversion they would share one limit.
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let high = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(high).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}
