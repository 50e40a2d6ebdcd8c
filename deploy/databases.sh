#!/bin/sh
# PostgreSQL's first start: a database and a user each for the ledger, for MLflow and for MLflow's users.
set -eu
for name in tuner mlflow; do
  case $name in
    tuner) password=$TUNER_DB_PASSWORD ;;
    mlflow) password=$MLFLOW_DB_PASSWORD ;;
  esac
  psql -v ON_ERROR_STOP=1 -q -U "${POSTGRES_USER:-postgres}" -d postgres <<SQL
CREATE ROLE $name LOGIN PASSWORD '$password';
CREATE DATABASE $name OWNER $name;
REVOKE ALL ON DATABASE $name FROM PUBLIC;
SQL
done
