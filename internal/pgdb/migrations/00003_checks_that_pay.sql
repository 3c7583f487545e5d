-- A CHECK is compiled anew for each statement: two microseconds, and a lone order paid for 24.
-- Those that repeat a promise stay: nothing oversold or negative in stock, a reservation is
-- open or closed, a paid order has its reference, quantities are above zero. What else the
-- rest said, those who write check, and "penstock verify". Pages are filled, too: an order
-- that is paid and a reservation that ends change what is indexed, so that room beside them
-- saved nothing.
--
-- While orders come in: each table is changed by a transaction of its own, which gives up
-- its place in the queue for the table when it does not get it at once. All of it may run again.

-- +goose NO TRANSACTION

-- +goose Up
-- +goose StatementBegin
DO $$
DECLARE
    change text;
BEGIN
    FOREACH change IN ARRAY ARRAY[
        $sql$ALTER TABLE counters DROP CONSTRAINT IF EXISTS counters_value_check$sql$,
        $sql$ALTER TABLE stock DROP CONSTRAINT IF EXISTS stock_version_check$sql$,
        $sql$ALTER TABLE reservations DROP CONSTRAINT IF EXISTS reservations_status_check, DROP CONSTRAINT IF EXISTS reservations_version_check$sql$,
        $sql$ALTER TABLE stock_ledger DROP CONSTRAINT IF EXISTS stock_ledger_seq_check, DROP CONSTRAINT IF EXISTS stock_ledger_kind_check$sql$,
        $sql$ALTER TABLE stock_events DROP CONSTRAINT IF EXISTS stock_events_seq_check$sql$,
        $sql$ALTER TABLE stock_keys DROP CONSTRAINT IF EXISTS stock_keys_key_hash_check, DROP CONSTRAINT IF EXISTS stock_keys_fingerprint_check$sql$,
        $sql$ALTER TABLE orders DROP CONSTRAINT IF EXISTS orders_customer_id_check, DROP CONSTRAINT IF EXISTS orders_status_check, DROP CONSTRAINT IF EXISTS orders_total_check, DROP CONSTRAINT IF EXISTS orders_currency_check, DROP CONSTRAINT IF EXISTS orders_version_check$sql$,
        $sql$ALTER TABLE order_lines DROP CONSTRAINT IF EXISTS order_lines_line_check, DROP CONSTRAINT IF EXISTS order_lines_unit_price_check$sql$,
        $sql$ALTER TABLE idempotency_keys DROP CONSTRAINT IF EXISTS idempotency_keys_key_hash_check, DROP CONSTRAINT IF EXISTS idempotency_keys_fingerprint_check$sql$,
        $sql$ALTER TABLE order_events DROP CONSTRAINT IF EXISTS order_events_seq_check$sql$,
        $sql$ALTER TABLE orders RESET (fillfactor)$sql$,
        $sql$ALTER TABLE reservations RESET (fillfactor)$sql$
    ] LOOP
        FOR attempt IN 1..20 LOOP
            BEGIN
                PERFORM set_config('lock_timeout', '200ms', true);
                EXECUTE change;
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                IF attempt = 20 THEN
                    RAISE EXCEPTION 'a long query or an open transaction keeps the table of "%"; migrate again when it has ended', change;
                END IF;
            END;
            PERFORM pg_sleep(0.05 * attempt);
        END LOOP;
        COMMIT;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- What is stored already is looked at afterwards, while orders come in.
-- +goose StatementBegin
DO $$
DECLARE
    change text;
BEGIN
    FOREACH change IN ARRAY ARRAY[
        $sql$ALTER TABLE counters DROP CONSTRAINT IF EXISTS counters_value_check, ADD CONSTRAINT counters_value_check CHECK (value >= 0) NOT VALID$sql$,
        $sql$ALTER TABLE stock DROP CONSTRAINT IF EXISTS stock_version_check, ADD CONSTRAINT stock_version_check CHECK (version > 0) NOT VALID$sql$,
        $sql$ALTER TABLE reservations DROP CONSTRAINT IF EXISTS reservations_status_check, ADD CONSTRAINT reservations_status_check CHECK (status IN ('active', 'committed', 'released', 'expired')) NOT VALID, DROP CONSTRAINT IF EXISTS reservations_version_check, ADD CONSTRAINT reservations_version_check CHECK (version > 0) NOT VALID$sql$,
        $sql$ALTER TABLE stock_ledger DROP CONSTRAINT IF EXISTS stock_ledger_seq_check, ADD CONSTRAINT stock_ledger_seq_check CHECK (seq > 0) NOT VALID, DROP CONSTRAINT IF EXISTS stock_ledger_kind_check, ADD CONSTRAINT stock_ledger_kind_check CHECK (kind IN ('received', 'adjusted', 'reserved', 'committed', 'released', 'expired')) NOT VALID$sql$,
        $sql$ALTER TABLE stock_events DROP CONSTRAINT IF EXISTS stock_events_seq_check, ADD CONSTRAINT stock_events_seq_check CHECK (seq > 0) NOT VALID$sql$,
        $sql$ALTER TABLE stock_keys DROP CONSTRAINT IF EXISTS stock_keys_key_hash_check, ADD CONSTRAINT stock_keys_key_hash_check CHECK (length(key_hash) = 16) NOT VALID, DROP CONSTRAINT IF EXISTS stock_keys_fingerprint_check, ADD CONSTRAINT stock_keys_fingerprint_check CHECK (length(fingerprint) = 16) NOT VALID$sql$,
        $sql$ALTER TABLE orders DROP CONSTRAINT IF EXISTS orders_customer_id_check, ADD CONSTRAINT orders_customer_id_check CHECK (customer_id <> '') NOT VALID, DROP CONSTRAINT IF EXISTS orders_status_check, ADD CONSTRAINT orders_status_check CHECK (status IN ('reserved', 'paid', 'cancelled', 'expired')) NOT VALID, DROP CONSTRAINT IF EXISTS orders_total_check, ADD CONSTRAINT orders_total_check CHECK (total >= 0) NOT VALID, DROP CONSTRAINT IF EXISTS orders_currency_check, ADD CONSTRAINT orders_currency_check CHECK (length(currency) = 3) NOT VALID, DROP CONSTRAINT IF EXISTS orders_version_check, ADD CONSTRAINT orders_version_check CHECK (version > 0) NOT VALID$sql$,
        $sql$ALTER TABLE order_lines DROP CONSTRAINT IF EXISTS order_lines_line_check, ADD CONSTRAINT order_lines_line_check CHECK (line > 0) NOT VALID, DROP CONSTRAINT IF EXISTS order_lines_unit_price_check, ADD CONSTRAINT order_lines_unit_price_check CHECK (unit_price >= 0) NOT VALID$sql$,
        $sql$ALTER TABLE idempotency_keys DROP CONSTRAINT IF EXISTS idempotency_keys_key_hash_check, ADD CONSTRAINT idempotency_keys_key_hash_check CHECK (length(key_hash) = 16) NOT VALID, DROP CONSTRAINT IF EXISTS idempotency_keys_fingerprint_check, ADD CONSTRAINT idempotency_keys_fingerprint_check CHECK (length(fingerprint) = 16) NOT VALID$sql$,
        $sql$ALTER TABLE order_events DROP CONSTRAINT IF EXISTS order_events_seq_check, ADD CONSTRAINT order_events_seq_check CHECK (seq > 0) NOT VALID$sql$,
        $sql$ALTER TABLE orders SET (fillfactor = 80)$sql$,
        $sql$ALTER TABLE reservations SET (fillfactor = 80)$sql$,
        $sql$ALTER TABLE counters VALIDATE CONSTRAINT counters_value_check$sql$,
        $sql$ALTER TABLE stock VALIDATE CONSTRAINT stock_version_check$sql$,
        $sql$ALTER TABLE reservations VALIDATE CONSTRAINT reservations_status_check, VALIDATE CONSTRAINT reservations_version_check$sql$,
        $sql$ALTER TABLE stock_ledger VALIDATE CONSTRAINT stock_ledger_seq_check, VALIDATE CONSTRAINT stock_ledger_kind_check$sql$,
        $sql$ALTER TABLE stock_events VALIDATE CONSTRAINT stock_events_seq_check$sql$,
        $sql$ALTER TABLE stock_keys VALIDATE CONSTRAINT stock_keys_key_hash_check, VALIDATE CONSTRAINT stock_keys_fingerprint_check$sql$,
        $sql$ALTER TABLE orders VALIDATE CONSTRAINT orders_customer_id_check, VALIDATE CONSTRAINT orders_status_check, VALIDATE CONSTRAINT orders_total_check, VALIDATE CONSTRAINT orders_currency_check, VALIDATE CONSTRAINT orders_version_check$sql$,
        $sql$ALTER TABLE order_lines VALIDATE CONSTRAINT order_lines_line_check, VALIDATE CONSTRAINT order_lines_unit_price_check$sql$,
        $sql$ALTER TABLE idempotency_keys VALIDATE CONSTRAINT idempotency_keys_key_hash_check, VALIDATE CONSTRAINT idempotency_keys_fingerprint_check$sql$,
        $sql$ALTER TABLE order_events VALIDATE CONSTRAINT order_events_seq_check$sql$
    ] LOOP
        FOR attempt IN 1..20 LOOP
            BEGIN
                PERFORM set_config('lock_timeout', '200ms', true);
                EXECUTE change;
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                IF attempt = 20 THEN
                    RAISE EXCEPTION 'a long query or an open transaction keeps the table of "%"; migrate again when it has ended', change;
                END IF;
            END;
            PERFORM pg_sleep(0.05 * attempt);
        END LOOP;
        COMMIT;
    END LOOP;
END $$;
-- +goose StatementEnd
