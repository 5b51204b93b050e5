DROP TABLE complete_since;
