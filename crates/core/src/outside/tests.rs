//! What passes by which entries, and that no form of an address gets past a range.

use proptest::prelude::*;

use super::*;

fn rule(allowed: &str, own: &[(&str, u16)]) -> AddressRule {
    let entries = allowed.split_whitespace().map(|entry| entry.parse().unwrap());
    let own = own
        .iter()
        .map(|(network, port)| (network.parse().unwrap(), *port));
    AddressRule::new(entries.collect(), own.collect(), MOST)
}

/// Whether a router asks what this resolves to: `10.0.0.1:80`, or `name=10.0.0.1:80`.
fn passes(rule: &AddressRule, text: &str) -> bool {
    let (host, address) = text.rsplit_once('=').unwrap_or((text, text));
    let address: Upstream = address.parse().unwrap();
    let host = match host == text {
        true => address.host.clone(),
        false => UpstreamHost::Name(host.parse().unwrap()),
    };
    let upstream: Upstream = match &host {
        UpstreamHost::Ip(_) => text.parse().unwrap(),
        UpstreamHost::Name(name) => format!("{name}:{}", address.port()).parse().unwrap(),
    };
    let refused = rule.refuses_address(&host, address.address().unwrap());
    // What is refused before it is resolved is refused then, too.
    assert!(rule.refuses(&upstream).is_none() || refused.is_some(), "{text}");
    refused.is_none()
}

#[test]
fn without_an_entry_all_but_the_router_and_its_host_passes() {
    let own = rule("", &[("10.0.0.7", 80), ("fd00::7", 80), ("127.0.0.0/8", 80)]);
    for good in [
        "10.0.0.7:81",
        "10.0.0.8:80",
        "8.8.8.8:80",
        "[fd00::1]:80",
        "[2001:db8::1]:443",
        "billing.internal=192.168.1.1:80",
        "128.0.0.1:80",
        "[64:ff9b::808:808]:80",
        "[2002:808:808::1]:80",
        "[2001:db8::5efe:808:808]:80",
        "[fd00:42::43]:80",
        "192.0.0.193:80",
        "[2600:1f18::1]:80",
    ] {
        assert!(passes(&own, good), "{good}");
    }
    for bad in [
        "127.0.0.1:2379",
        "127.255.255.254:1",
        "[::1]:2379",
        "[::ffff:127.0.0.1]:2379",
        "[::127.0.0.1]:2379",
        "[64:ff9b::7f00:1]:2379",
        "169.254.169.254:80",
        "[::ffff:a9fe:a9fe]:80",
        "[fe80::1]:80",
        "[febf::1]:80",
        "[fd00:ec2::254]:80",
        "[fd20:ce::254]:80",
        "168.63.129.16:80",
        "100.100.100.200:80",
        "192.0.0.192:80",
        "[fd00:c1::a9fe:a9fe]:80",
        "[fd00:42::42]:80",
        "240.0.0.1:80",
        "255.255.255.255:80",
        "[fec0::1]:80",
        "[2002:7f00:1::]:80",
        "[2002:a9fe:a9fe:1::1]:80",
        "[::ffff:0:127.0.0.1]:80",
        "[64:ff9b:1::7f00:1]:80",
        "[64:ff9b:1:7f00:0:100::]:80",
        "[2001:0:7f00:1::]:80",
        "[2001:db8::5efe:7f00:1]:80",
        "[2001:db8::200:5efe:10.0.0.7]:80",
        "[2002:a00:7::1]:80",
        "0.1.2.3:80",
        "10.0.0.7:80",
        "[::ffff:10.0.0.7]:80",
        "[fd00::7]:80",
        "evil.example=127.0.0.1:80",
        "evil.example=10.0.0.7:80",
        "localhost=127.0.0.1:80",
    ] {
        assert!(!passes(&own, bad), "{bad}");
    }
    for name in [
        "localhost:2379",
        "a.localhost:80",
        "localhost.localdomain:80",
        "IP6-localhost:80",
        "ip6-loopback:80",
        "localhost6.localdomain6:80",
    ] {
        assert!(
            own.refuses(&name.parse().unwrap()).is_some(),
            "{name} needs no resolving"
        );
    }
    assert!(own.refuses(&"notlocalhost:80".parse().unwrap()).is_none());
}

#[test]
fn entries_allow_what_they_name_and_nothing_else() {
    for (entries, good, bad) in [
        (
            "*.internal billing.example 10.0.0.0/8",
            &[
                "a.internal=8.8.8.8:80",
                "a.b.internal=8.8.8.8:80",
                "billing.example=8.8.8.8:80",
                "x.example=10.1.1.1:80",
                "10.1.1.1:80",
            ][..],
            &[
                "internal=8.8.8.8:80",
                "evilinternal=8.8.8.8:80",
                "a.billing.example=8.8.8.8:80",
                "x.example=8.8.8.8:80",
                "8.8.8.8:80",
                "a.internal=127.0.0.1:80",
                "a.internal=169.254.169.254:80",
                "10.0.0.7:80",
                "a.internal=10.0.0.7:80",
            ][..],
        ),
        (
            "127.0.0.0/8 10.0.0.7",
            &[
                "127.0.0.1:80",
                "[::ffff:127.0.0.1]:80",
                "a=127.0.0.1:80",
                "10.0.0.7:80",
                "10.0.0.7:81",
            ],
            &["10.0.0.8:80", "a=10.0.0.8:80", "[::1]:80", "169.254.0.1:80"],
        ),
        (
            "::1 fe80::/64",
            &["[::1]:80", "[fe80::5]:80"],
            &["[fe81::1]:80", "127.0.0.1:80"],
        ),
        // Whoever allows everything means all the world, not the host that he writes it on.
        (
            "0.0.0.0/0 ::/0",
            &["8.8.8.8:80", "[fd00::1]:80", "a=8.8.8.8:80"],
            &[
                "127.0.0.1:80",
                "[::1]:80",
                "169.254.169.254:80",
                "[fd00:ec2::254]:80",
                "10.0.0.7:80",
            ],
        ),
        (
            "fd00:ec2::/32 100.100.100.200",
            &["[fd00:ec2::254]:80", "100.100.100.200:80"],
            &["8.8.8.8:80"],
        ),
        (
            "2002::/16 127.0.0.1",
            &["[2002:808:808::1]:80", "[2002:7f00:1::]:80"],
            &["[2002:7f00:2::]:80", "[2002:a00:7::]:80"],
        ),
        (
            "64:ff9b:1::/96 2001::/32 240.0.0.0/8",
            &["[64:ff9b:1::a00:1]:80", "[2001::1]:80", "240.0.0.1:80"],
            &["[64:ff9b:1:1::]:80", "255.255.255.255:80"],
        ),
        // What is allowed of IPv4 is not, where it is the end of a tunnel.
        (
            "8.0.0.0/8",
            &["8.8.8.8:80", "[64:ff9b::808:808]:80"],
            &["[2002:808:808::]:80"],
        ),
        (
            "*.internal",
            &["a.internal=8.8.8.8:80"],
            &["b.example=8.8.8.8:80", "8.8.8.8:80"],
        ),
    ] {
        let rule = rule(entries, &[("10.0.0.7", 80)]);
        for good in good {
            assert!(passes(&rule, good), "{entries}: {good}");
        }
        for bad in bad {
            assert!(!passes(&rule, bad), "{entries}: {bad}");
        }
    }
    let tunnel = AddressRule::default().refuses(&"[2002:7f00:1::]:80".parse().unwrap());
    assert_eq!(
        tunnel.unwrap(),
        "[2002:7f00:1::]:80 is 127.0.0.1 in another form, a loopback address, allowed only by an \
         --allow-address within 127.0.0.0/8"
    );
    let names = rule("*.internal", &[]);
    assert!(
        names.refuses(&"b.example:80".parse().unwrap()).is_some(),
        "no address of it could pass"
    );
    let also = rule("*.internal 10.0.0.0/8", &[]);
    assert!(
        also.refuses(&"b.example:80".parse().unwrap()).is_none(),
        "it has to be resolved first"
    );
    assert!(passes(&AddressRule::off(), "127.0.0.1:80"));
}

#[test]
fn entries_are_checked() {
    for good in [
        "10.0.0.0/8",
        "10.0.0.5",
        "fd00::/8",
        "::/0",
        "0.0.0.0/0",
        "*.internal",
        "a.b",
        "*.a.b",
    ] {
        assert_eq!(good.parse::<Allowed>().unwrap().to_string(), good);
    }
    for (given, is) in [
        ("10.0.0.5/32", "10.0.0.5"),
        ("*.Internal", "*.internal"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
    ] {
        assert_eq!(given.parse::<Allowed>().unwrap().to_string(), is);
    }
    for bad in [
        "",
        "*",
        "*.",
        "*a",
        "a*",
        "a.*",
        "**.a",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "/8",
        "fd00::/129",
        "fd00::1/8",
        "10.0.0",
        "127.1",
        "0x7f000001",
        "*.1",
        "::ffff:10.0.0.0/104",
        "10.0.0.5:80",
        "http://a",
        "a b",
    ] {
        assert!(bad.parse::<Allowed>().is_err(), "{bad:?}");
    }
    let error = "10.0.0.1/8".parse::<Allowed>().unwrap_err().to_string();
    assert!(error.contains("the others 0, such as 10.0.0.0/8"), "{error}");
}

#[test]
fn a_rule_survives_its_json() {
    let rule = rule(
        "*.internal 10.0.0.0/8 a ::1",
        &[("10.0.0.7", 80), ("127.0.0.0/8", 8080)],
    );
    let json = serde_json::to_string(&rule).unwrap();
    assert!(
        json.contains(r#""own":[["10.0.0.7",80],["127.0.0.0/8",8080]]"#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<AddressRule>(&json).unwrap(), rule);
}

proptest! {
    /// By bits and by text, a network has the addresses that begin with its bits.
    #[test]
    fn networks_have_the_addresses_that_begin_so(octets: [u8; 16], six: bool, length in 0u32..=128, other: [u8; 16], flip in 0u32..128) {
        let ip = |octets: [u8; 16]| -> IpAddr {
            if six { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() }
        };
        let width = if six { 128 } else { 32 };
        let length = length.min(width);
        let mut base = octets;
        for bit in length..128 {
            base[bit as usize / 8] &= !(0x80 >> (bit % 8));
        }
        let network = Network::new(ip(base), length).unwrap();
        prop_assert!(network.contains(ip(octets)));
        if ip(base).to_canonical() == ip(base) {
            prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
        }
        let mut flipped = octets;
        let flip = flip % width;
        flipped[flip as usize / 8] ^= 0x80 >> (flip % 8);
        prop_assert_eq!(network.contains(ip(flipped)), flip >= length);
        let same = (0..length).all(|bit| (octets[bit as usize / 8] ^ other[bit as usize / 8]) & (0x80 >> (bit % 8)) == 0);
        prop_assert_eq!(network.contains(ip(other)), same);
    }

    /// An IPv4 address that is refused is so in every form of IPv6 that leads there.
    #[test]
    fn no_form_of_a_refused_address_passes(
        start in prop::sample::select(vec![[127, 0], [169, 254], [0, 0], [10, 0], [240, 0], [168, 63], [192, 0]]),
        end: [u8; 2],
        known in prop::sample::select(vec![None, Some([129, 16]), Some([0, 192]), Some([0, 7])]),
        before: [u8; 8],
        after: [u8; 10],
    ) {
        let rule = rule("", &[("10.0.0.7", 80)]);
        let [c, d] = known.unwrap_or(end);
        let four = Ipv4Addr::new(start[0], start[1], c, d);
        let Ok(address) = Address::new(four.into(), 80) else { return Ok(()) };
        let host = UpstreamHost::Ip(four.into());
        prop_assume!(rule.refuses_address(&host, address).is_some());
        let octets = four.octets();
        let front = |front: &[u8]| [front, &octets, &after].concat()[..16].to_vec();
        let back = |front: &[u8]| {
            let mut all = [front, &[0; 12]].concat();
            all.truncate(12);
            all.extend(octets);
            all
        };
        // Teredo has its client's address with all bits turned.
        let turned = octets.map(|octet| !octet);
        let mut of_rfc_6052 = vec![0, 0x64, 0xff, 0x9b, 0, 1, octets[0], octets[1], 0, octets[2], octets[3]];
        of_rfc_6052.extend(&after[..5]);
        for form in [
            back(&[]),
            back(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            back(&[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            back(&[0, 0x64, 0xff, 0x9b]),
            back(&[0, 0x64, 0xff, 0x9b, 0, 1]),
            of_rfc_6052,
            front(&[0x20, 0x02]),
            front(&[0x20, 0x01, 0, 0]),
            [&[0x20, 0x01, 0, 0][..], &after[..8], &turned].concat(),
            back(&[&before[..], &[0, 0, 0x5e, 0xfe]].concat()),
            back(&[&before[..], &[2, 0, 0x5e, 0xfe]].concat()),
        ] {
            let form: [u8; 16] = form.try_into().unwrap();
            let Ok(address) = Address::new(form.into(), 80) else { continue };
            for host in [UpstreamHost::Ip(form.into()), UpstreamHost::Name("a.example".parse().unwrap())] {
                prop_assert!(rule.refuses_address(&host, address).is_some(), "{} is {}", address, four);
            }
        }
    }

    /// Whatever is allowed but a single address or a range within it: the host's own is not asked.
    #[test]
    fn no_wide_entry_allows_the_host_itself(length in 0u32..8, name in "[a-z]{1,3}\\.internal", last: u8) {
        let wide = Network::new([0, 0, 0, 0].into(), length.min(1)).unwrap();
        let rule = AddressRule::new(vec![Allowed::Network(wide), "*.internal".parse().unwrap()], BTreeSet::new(), MOST);
        let text = format!("{name}=127.0.0.{last}:80");
        prop_assert!(!passes(&rule, &text));
    }
}
