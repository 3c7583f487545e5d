-- Penstock's tables. docs/sql.md explains them; every text that is compared has the
-- collation "C", so that order is that of the API and needs no locale.

-- +goose Up

-- A counter numbers the rows of one log. Its row is locked from the moment a batch takes
-- numbers until that batch has committed, so numbers become visible in order and
-- without gaps: whoever reads "after n" misses nothing.
CREATE TABLE counters (
    name  text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL CHECK (value >= 0)
) WITH (fillfactor = 10);
INSERT INTO counters VALUES ('catalogue', 0), ('ledger', 0), ('stock_events', 0), ('order_events', 0), ('ledger_followed', 0);

-- A row for each transaction, written with it: who lost the connection while committing
-- finds here what became of that. A fence is written in its place so that it never can be.
CREATE TABLE batches (
    token      uuid PRIMARY KEY,
    fence      boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batches_created ON batches USING brin (created_at);

CREATE TABLE skus (
    sku        text COLLATE "C" PRIMARY KEY CHECK (length(sku) BETWEEN 1 AND 64),
    title      text NOT NULL,
    amount     bigint NOT NULL CHECK (amount >= 0), -- unit price in minor units
    currency   text NOT NULL CHECK (length(currency) = 3),
    policy     text NOT NULL CHECK (policy IN ('reserve', 'track', 'untracked')),
    version    bigint NOT NULL CHECK (version > 0),
    updated_at timestamptz NOT NULL,
    changed    bigint NOT NULL -- counter "catalogue" when it was last put
);
CREATE INDEX skus_changed ON skus (changed);

CREATE TABLE stock (
    sku      text COLLATE "C" NOT NULL,
    location text COLLATE "C" NOT NULL,
    on_hand  bigint NOT NULL,
    reserved bigint NOT NULL CHECK (reserved >= 0),
    track    boolean NOT NULL DEFAULT false, -- was sold with the policy "track", which may go below zero
    version  bigint NOT NULL CHECK (version > 0),
    PRIMARY KEY (sku, location),
    CONSTRAINT never_oversold CHECK (track OR reserved <= on_hand)
) WITH (fillfactor = 50);

CREATE TABLE reservations (
    id         text COLLATE "C" PRIMARY KEY,
    status     text NOT NULL CHECK (status IN ('active', 'committed', 'released', 'expired')),
    order_id   text COLLATE "C",
    reference  text,
    key        bytea,     -- what a retry of the same work presents
    skus       text[] NOT NULL,
    locations  text[] NOT NULL,
    quantities bigint[] NOT NULL,
    committed  bigint[],  -- units sold of each line, once committed
    policies   text[],    -- of each line; NULL when all are "reserve"
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    closed_at  timestamptz,
    version    bigint NOT NULL CHECK (version > 0),
    CONSTRAINT closed_or_active CHECK ((status = 'active') = (closed_at IS NULL)),
    CONSTRAINT lines_match CHECK (cardinality(skus) = cardinality(quantities) AND cardinality(skus) = cardinality(locations))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX reservations_active_key ON reservations (key) WHERE status = 'active' AND key IS NOT NULL;
-- Its condition is the other name of "active", so that the planner cannot take it for look-ups by key.
CREATE INDEX reservations_due ON reservations (expires_at) WHERE closed_at IS NULL;

CREATE TABLE stock_ledger (
    seq            bigint PRIMARY KEY CHECK (seq > 0),
    time           timestamptz NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('received', 'adjusted', 'reserved', 'committed', 'released', 'expired')),
    sku            text COLLATE "C" NOT NULL,
    location       text COLLATE "C" NOT NULL,
    policy         text NOT NULL,
    quantity       bigint NOT NULL CHECK (quantity > 0 OR kind = 'adjusted'),
    reservation_id text COLLATE "C",
    order_id       text COLLATE "C",
    reference      text,
    reason         text
);
CREATE INDEX stock_ledger_time ON stock_ledger USING brin (time);
-- What the orders follow: the ends of their reservations.
CREATE INDEX stock_ledger_closings ON stock_ledger (seq)
    WHERE order_id IS NOT NULL AND kind IN ('committed', 'released', 'expired');

CREATE TABLE stock_events (
    seq      bigint PRIMARY KEY CHECK (seq > 0),
    time     timestamptz NOT NULL,
    depleted boolean NOT NULL,
    sku      text COLLATE "C" NOT NULL,
    location text COLLATE "C" NOT NULL,
    on_hand  bigint NOT NULL,
    reserved bigint NOT NULL,
    version  bigint NOT NULL
);

-- The answers to receipts, adjustments and reservations that came with a key.
CREATE TABLE stock_keys (
    key_hash       bytea PRIMARY KEY CHECK (length(key_hash) = 16),
    fingerprint    bytea NOT NULL CHECK (length(fingerprint) = 16),
    reservation_id text COLLATE "C",
    sku            text COLLATE "C",
    location       text COLLATE "C",
    on_hand        bigint,
    reserved       bigint,
    version        bigint,
    created_at     timestamptz NOT NULL
);
CREATE INDEX stock_keys_created ON stock_keys USING brin (created_at);

CREATE TABLE orders (
    id                     text COLLATE "C" PRIMARY KEY,
    customer_id            text COLLATE "C" NOT NULL CHECK (customer_id <> ''),
    status                 text NOT NULL CHECK (status IN ('reserved', 'paid', 'cancelled', 'expired')),
    total                  bigint NOT NULL CHECK (total >= 0), -- minor units
    currency               text NOT NULL CHECK (length(currency) = 3),
    reservation_id         text COLLATE "C" NOT NULL,
    payment_reference      text,
    hold_expires_at        timestamptz NOT NULL,
    placed_reservation_id  text COLLATE "C", -- where a late payment changed reservation_id
    key_hash               bytea NOT NULL,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL,
    version                bigint NOT NULL CHECK (version > 0),
    CONSTRAINT paid_has_reference CHECK ((status = 'paid') = (payment_reference IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX orders_customer ON orders (customer_id, id);
CREATE INDEX orders_status ON orders (status, id);

CREATE TABLE order_lines (
    order_id   text COLLATE "C" NOT NULL,
    line       integer NOT NULL CHECK (line > 0),
    sku        text COLLATE "C" NOT NULL,
    location   text COLLATE "C" NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity > 0),
    unit_price bigint NOT NULL CHECK (unit_price >= 0),
    PRIMARY KEY (order_id, line)
);

CREATE TABLE idempotency_keys (
    key_hash    bytea PRIMARY KEY CHECK (length(key_hash) = 16),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 16),
    order_id    text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX idempotency_keys_created ON idempotency_keys USING brin (created_at);

CREATE TABLE order_events (
    seq      bigint PRIMARY KEY CHECK (seq > 0),
    time     timestamptz NOT NULL,
    order_id text COLLATE "C" NOT NULL,
    version  bigint NOT NULL,
    status   text NOT NULL
);

CREATE VIEW events AS
    SELECT seq, time, 'order.' || status AS type, order_id AS subject, version FROM order_events
    UNION ALL
    SELECT seq, time, CASE WHEN depleted THEN 'stock.depleted' ELSE 'stock.replenished' END, sku || '@' || location, version
    FROM stock_events;

-- +goose Down
DROP VIEW events;
DROP TABLE order_events, idempotency_keys, order_lines, orders, stock_keys, stock_events, stock_ledger, reservations, stock, skus, batches, counters;
