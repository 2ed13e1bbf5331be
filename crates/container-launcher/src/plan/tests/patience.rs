//! How long others may take to come first.

use super::*;

#[test]
fn what_somebody_else_registers_in_a_moment_is_never_missed() {
    let mut stage = Stage::new();
    stage.keys.remove("services/x");
    assert_eq!(phase(&stage.after(0)), "waiting");
    stage.instance(1, "theirs");
    assert!(stage.after(1).backends.is_empty());
    // The patience begins anew when it goes.
    let instances: Vec<_> = stage
        .keys
        .keys()
        .filter(|key| key.contains("backends/"))
        .cloned()
        .collect();
    for key in instances {
        stage.keys.remove(&key);
    }
    assert_eq!(phase(&stage.after(60)), "waiting");
    assert_eq!(phase(&stage.after(3)), "no definition");
}
