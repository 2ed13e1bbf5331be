//! The IPv4 routes of this host, as the kernel lists them in /proc/net/route.

use std::net::Ipv4Addr;

/// One of them. A default route leads to 0.0.0.0, of width 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelRoute {
    pub to: Ipv4Addr,
    pub width: u8,
    /// 0.0.0.0 where there is none.
    pub gateway: Ipv4Addr,
}

/// Those of this host; none where the kernel lists none.
pub fn of_kernel() -> Vec<KernelRoute> {
    read(&std::fs::read_to_string("/proc/net/route").unwrap_or_default())
}

pub fn read(table: &str) -> Vec<KernelRoute> {
    // The kernel prints the bytes as they lie in memory.
    let address = |word: &str| {
        let number = u32::from_str_radix(word, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mask = address(words.get(7)?)?;
        Some(KernelRoute {
            to: address(words.get(1)?)?,
            // Up to 32.
            width: u32::from(mask).count_ones() as u8,
            gateway: address(words.get(2)?)?,
        })
    };
    table.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_this_processor_prints_them() {
        let word = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line = |to: [u8; 4], gateway: [u8; 4], mask: [u8; 4]| {
            format!(
                "eth0\t{}\t{}\t0001\t0\t0\t0\t{}\t0\n",
                word(to),
                word(gateway),
                word(mask)
            )
        };
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n".to_owned()
            + &line([0; 4], [192, 168, 0, 1], [0; 4])
            + "eth0\tzz\t00000000\t0001\t0\t0\t0\t00000000\n\nnonsense\n"
            + &line([172, 17, 0, 0], [0; 4], [255, 255, 0, 0]);
        let routes = [
            KernelRoute {
                to: Ipv4Addr::UNSPECIFIED,
                width: 0,
                gateway: Ipv4Addr::new(192, 168, 0, 1),
            },
            KernelRoute {
                to: Ipv4Addr::new(172, 17, 0, 0),
                width: 16,
                gateway: Ipv4Addr::UNSPECIFIED,
            },
        ];
        assert_eq!(read(&table), routes);
        assert_eq!(read(""), []);
    }
}
