DROP INDEX dead_letters_of_lots;
DROP TABLE symbol_changes;
