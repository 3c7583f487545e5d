-- Old history may be removed (serve --keep-history). What the removed part of the ledger
-- comes to stays, so that balances can still be proven from stored data.

-- +goose Up

-- A level as it was after ledger entry number "ledger_trimmed" of the counters.
CREATE TABLE stock_base (
    sku      text COLLATE "C" NOT NULL,
    location text COLLATE "C" NOT NULL,
    on_hand  bigint NOT NULL,
    reserved bigint NOT NULL,
    version  bigint NOT NULL CHECK (version > 0),
    PRIMARY KEY (sku, location)
);

-- The reservations that were open then.
CREATE TABLE reservations_base (
    reservation_id text COLLATE "C" PRIMARY KEY,
    order_id       text COLLATE "C",
    open           bigint NOT NULL,
    committed      bigint NOT NULL
);

-- The last number that was removed of each log. Nobody locks these rows but who removes.
INSERT INTO counters VALUES ('ledger_trimmed', 0), ('stock_events_trimmed', 0), ('order_events_trimmed', 0);

-- +goose Down

-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM counters WHERE name LIKE '%\_trimmed' AND value > 0) THEN
        RAISE EXCEPTION 'history was removed; without stock_base the balances could not be proven any more';
    END IF;
END $$;
-- +goose StatementEnd
DELETE FROM counters WHERE name IN ('ledger_trimmed', 'stock_events_trimmed', 'order_events_trimmed');
DROP TABLE reservations_base, stock_base;
