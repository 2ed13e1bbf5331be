//! Addresses that no compose file shows: those that are defaults in the code of a service.

use super::{import_of, says, wishes};

/// Two that Mayfly starts, one that stays, and a database.
const SHOP: &str = "services:
  web: {image: 'shop/web:1', ports: ['80:8080']}
  orders-api: {image: 'shop/orders:2', expose: ['8000']}
  catalog: {image: 'shop/catalog:3', expose: ['8000'], volumes: ['data:/data']}
  db: {image: 'postgres:16'}
";

#[test]
fn addresses_in_the_code_are_to_be_looked_for() {
    says(
        &[("c.yml", SHOP)],
        &[
            "- Whether the code of a service contains the address of another service as a default, such as \
             http://orders-api:8000: look for web, orders-api, catalog. Set such a variable in your compose file \
             (ORDERS_API_URL: http://orders-api:8000), and the import writes http://orders-api.service in its place; ",
            " Mayfly's network also knows these names: catalog. So code that calls one of them without `.service` \
             reaches your own container from every environment, and not the environment's version.\n",
        ],
    );
    // Of those that Mayfly starts, its network knows no such name; and one alone calls nobody.
    let two = SHOP.replace(", volumes: ['data:/data']", "");
    let report = import_of(&[("c.yml", &two)], &wishes()).unwrap().report;
    assert!(
        report.contains("look for web, orders-api, catalog.") && !report.contains("also knows"),
        "{report}"
    );
    let one = &SHOP[..SHOP.find("  orders").unwrap()];
    let report = import_of(&[("c.yml", one)], &wishes()).unwrap().report;
    assert!(!report.contains("as a default"), "{report}");
}

#[test]
fn a_routed_service_that_stays_resolves_names_whatever_it_seems_to_call() {
    let mut wishes = wishes();
    wishes.dns = Some("172.31.240.53".to_owned());
    let plan = import_of(&[("c.yml", SHOP)], &wishes).unwrap();
    let overlay: serde_yaml::Value = serde_yaml::from_str(&plan.overlay).unwrap();
    let dns = |name: &str| overlay["services"][name]["dns"][0].as_str();
    assert_eq!((dns("catalog"), dns("db")), (Some("172.31.240.53"), None));
}
