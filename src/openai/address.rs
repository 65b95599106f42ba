//! Where an address leads: to this machine, into somebody's network, or into the world.
//!
//! Invariant: what is not known to be of the world is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether it is this machine.
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Whether it may be of the world: of a name that is known once it is resolved.
pub(super) fn may_be_global(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(_) => !is_loopback(host),
        Host::Ipv4(address) => is_global(IpAddr::V4(*address)),
        Host::Ipv6(address) => is_global(IpAddr::V6(*address)),
    }
}

/// Whether both are on the same host, by whatever name this machine goes.
pub(super) fn share_host(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (Url::parse(one), Url::parse(other)) else { return false };
    let (Some(one), Some(other)) = (one.host(), other.host()) else { return false };
    one == other || (is_loopback(&one) && is_loopback(&other))
}

/// Whether it is of the world, and neither of this machine nor of a network of its own, where services of clouds give keys away.
///
/// # Source
///
/// The IANA registries of special-purpose addresses, RFC 6890.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => match inner(address) {
            Some(inner) => is_global_v4(inner),
            None => is_global_v6(address),
        },
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    // this network, carriers, protocols, benchmarks, and what is reserved
    let is_special = matches!(
        address.octets(),
        [0, ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..]
    );
    !(is_special
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast())
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // tunnels, which may lead anywhere, and documentation
        [0x2001, 0 | 0xdb8, ..] | [0x2002, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// The IPv4 address that is written as IPv6, or is translated to on the way.
fn inner(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))),
        _ => address.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_world_are_global() {
        for (address, expected) in [
            ("8.8.8.8", true),
            ("100.128.0.1", true),
            ("172.32.0.1", true),
            ("2606:4700::1111", true),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::808:808", true),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("198.19.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("2001:0:7f00:1::", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::", false),
        ] {
            assert_eq!(is_global(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_host_is_known_in_whatever_way_it_is_written() {
        let may_be = |url: &str| may_be_global(&Url::parse(url).unwrap().host().unwrap());
        assert!(may_be("https://images.example/a.png") && may_be("http://8.8.8.8/"));
        for url in [
            "http://localhost/",
            "http://a.localhost/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::ffff:7f00:1]/",
        ] {
            assert!(!may_be(url), "{url}");
        }
        assert!(share_host("https://a.example/v1", "http://A.example:8080/1.png"));
        assert!(share_host("http://localhost:8080/v1", "http://127.0.0.1:8080/1.png"));
        assert!(!share_host("https://a.example/v1", "http://127.0.0.1/1.png"));
        assert!(!share_host("https://a.example/v1", "https://a.example.org/1.png") && !share_host("", ""));
    }
}
