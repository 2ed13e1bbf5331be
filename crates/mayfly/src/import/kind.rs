//! What a service is, as far as its image and its ports show it: a database, a queue, a cache and
//! the like keep state or speak no HTTP, so all environments share them.

/// Words in the name of an image, and what it then is.
const SHARED: [(&str, &[&str]); 8] = [
    (
        "a database",
        &[
            "postgres",
            "postgresql",
            "postgis",
            "pgvector",
            "timescaledb",
            "mysql",
            "mariadb",
            "percona",
            "mongo",
            "mongodb",
            "cassandra",
            "scylla",
            "couchdb",
            "cockroach",
            "clickhouse",
            "influxdb",
            "neo4j",
            "mssql",
            "sqlserver",
            "oracle",
            "db2",
            "arangodb",
            "rethinkdb",
            "dynamodb",
            "surrealdb",
            "questdb",
            "milvus",
            "qdrant",
            "db",
            "database",
            "weaviate",
            "chroma",
            "ferretdb",
            "tidb",
            "edgedb",
            "sqledge",
        ],
    ),
    (
        "a cache",
        &["redis", "memcached", "valkey", "keydb", "dragonfly", "hazelcast"],
    ),
    (
        "a queue",
        &[
            "rabbitmq",
            "kafka",
            "zookeeper",
            "nats",
            "activemq",
            "artemis",
            "pulsar",
            "mosquitto",
            "emqx",
            "nsq",
            "redpanda",
            "beanstalkd",
            "elasticmq",
            "temporal",
        ],
    ),
    (
        "a search engine",
        &[
            "elasticsearch",
            "opensearch",
            "solr",
            "meilisearch",
            "typesense",
            "sphinx",
        ],
    ),
    (
        "a store",
        &[
            "minio",
            "seaweedfs",
            "etcd",
            "consul",
            "vault",
            "localstack",
            "azurite",
            "ceph",
        ],
    ),
    (
        "a tool for operators",
        &[
            "adminer",
            "phpmyadmin",
            "pgadmin",
            "pgadmin4",
            "prometheus",
            "grafana",
            "jaeger",
            "zipkin",
            "loki",
            "tempo",
            "promtail",
            "alertmanager",
            "mailhog",
            "mailpit",
            "mailcatcher",
            "otel",
            "opentelemetry",
            "portainer",
            "watchtower",
            "cadvisor",
            "kibana",
            "logstash",
            "fluentd",
            "filebeat",
            "selenium",
            "flower",
            "exporter",
            "kafdrop",
            "redisinsight",
            "dozzle",
        ],
    ),
    ("a FastCGI server", &["fpm"]),
    (
        "a mail or file server",
        &["postfix", "smtp", "sftp", "ftp", "openldap"],
    ),
];

/// Those all of whose images are tools for operators.
const VENDORS: [&str; 5] = ["jaegertracing", "openzipkin", "grafana", "prom", "otel"];

/// Ports at which no HTTP is spoken, and what listens there.
const PORTS: [(u16, &str); 20] = [
    (22, "SSH"),
    (25, "SMTP"),
    (53, "DNS"),
    (389, "LDAP"),
    (1433, "SQL Server"),
    (1521, "Oracle"),
    (1883, "MQTT"),
    (2181, "ZooKeeper"),
    (3306, "MySQL"),
    (4222, "NATS"),
    (5432, "PostgreSQL"),
    (5672, "AMQP"),
    (6379, "Redis"),
    (9042, "Cassandra"),
    (9092, "Kafka"),
    (11211, "memcached"),
    (26257, "CockroachDB"),
    (27017, "MongoDB"),
    (50000, "Db2"),
    (61616, "ActiveMQ"),
];

/// Schemes of URLs whose servers speak no HTTP.
const SCHEMES: [&str; 24] = [
    "postgres",
    "postgresql",
    "postgresql+asyncpg",
    "postgresql+psycopg2",
    "psql",
    "pgsql",
    "mysql",
    "mysql+pymysql",
    "mariadb",
    "mongodb",
    "redis",
    "rediss",
    "amqp",
    "amqps",
    "nats",
    "kafka",
    "mqtt",
    "memcached",
    "sqlserver",
    "ldap",
    "smtp",
    "clickhouse",
    "cassandra",
    "bolt",
];

const PROXIES: [&str; 8] = [
    "nginx", "traefik", "caddy", "haproxy", "envoy", "kong", "apache", "httpd",
];

/// The words of the last part of an image's name, and of its tag.
fn words(name: &str, tag: &str) -> Vec<String> {
    let last = name.rsplit('/').next().unwrap_or_default();
    let words = last
        .split(['-', '_', '.'])
        .chain(tag.split(['-', '_']).filter(|word| *word == "fpm"));
    words.map(str::to_ascii_lowercase).collect()
}

/// What an image is, if all environments share its containers.
pub(super) fn shared(name: &str, tag: &str) -> Option<&'static str> {
    let words = words(name, tag);
    let has = |known: &str| words.iter().any(|word| word == known);
    let known = SHARED.iter().find(|(_, known)| known.iter().any(|it| has(it)));
    let vendor = || {
        name.split('/')
            .any(|part| VENDORS.contains(&part))
            .then_some("a tool for operators")
    };
    known.map(|(what, _)| *what).or_else(vendor)
}

/// Whether an image is a proxy, whose own files name the services behind it.
pub(super) fn is_proxy(name: &str) -> bool {
    words(name, "")
        .iter()
        .any(|word| PROXIES.contains(&word.as_str()))
}

/// What listens at a port, if it speaks no HTTP.
pub(super) fn no_http(port: u16) -> Option<&'static str> {
    PORTS
        .iter()
        .find(|(known, _)| *known == port)
        .map(|(_, what)| *what)
}

/// Whether the server of a URL with this scheme speaks something other than HTTP.
pub(super) fn is_no_http(scheme: &str) -> bool {
    SCHEMES.contains(&scheme.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_shared() {
        for (name, tag, expected) in [
            ("postgres", "16", Some("a database")),
            ("docker.io/bitnami/postgresql", "", Some("a database")),
            ("redis/redis-stack", "7", Some("a cache")),
            ("confluentinc/cp-kafka", "7", Some("a queue")),
            ("php", "8-fpm-alpine", Some("a FastCGI server")),
            ("shop/web", "1", None),
            ("acme/postgres.tools/api", "1", None),
            ("nginx", "1", None),
            ("jaegertracing/all-in-one", "1", Some("a tool for operators")),
            ("acme/orders-db", "1", Some("a database")),
        ] {
            assert_eq!(shared(name, tag), expected, "{name}:{tag}");
        }
        assert!(is_proxy("library/nginx") && is_proxy("nginx-unprivileged") && !is_proxy("shop/web"));
        assert_eq!((no_http(5432), no_http(8080)), (Some("PostgreSQL"), None));
        assert!(is_no_http("Redis") && !is_no_http("http"));
    }
}
