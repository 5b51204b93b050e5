Feature: Wrong set-up
  A program whose usage, configuration or set-up is wrong says what is wrong and what to do, and exits 64. The cause is
  the same in every program, so the exit code is, too. A program whose store is down waits, and reports it.

  @redis-only
  Scenario Outline: Wrong usage and configuration
    Given a configuration file with "[redis]\nnonsense = 1"
    When every program is started with `<arguments>`
    Then each exits 64 and says "<message>"

    Examples:
      | arguments                                | message                         |
      | --nonsense                               | --nonsense                      |
      | --set redis.nonsense=1                   | unknown key `redis.nonsense`    |
      | --config <folder>/storage.toml           | unknown key `redis.nonsense`    |
      | --config <folder>/absent.toml            | cannot read                     |
      | --redis-url http://localhost             | not the URL of a Redis          |
      | --set redis.connect_timeout=0s           | must be at least 1ms            |
      | --set service.shutdown_grace=soon        | `service.shutdown_grace`        |
      | --set redis.password_file=/absent        | password file /absent           |
      | --set redis.cert_file=/absent            | need each other                 |

  @redis-only
  Scenario: An unknown setting in the environment
    Given the setting STORAGE_REDIS__NONSENSE is "1"
    When every program is started
    Then each exits 64 and says "STORAGE_REDIS__NONSENSE"

  @redis-only
  Scenario: A port that another process uses
    Given another process listens on the port of the metrics
    When hot-writer, warm-syncer, aggregator-admin, backup-runner are started
    Then each exits 64 and says "choose another address"

  @redis-only
  Scenario: Sections of other programs in the same file
    Given a configuration file with "[hot]\n[warm]\n[admin]\n[backup]\n[postgres]\n[stream]\n[telemetry]\n[service]"
    When I run `hot-writer check-config --config <folder>/storage.toml`
    Then it exits 0
    When I run `warm-syncer check-config --config <folder>/storage.toml`
    Then it exits 0
    When I run `aggregator-admin check-config --config <folder>/storage.toml`
    Then it exits 0
    When I run `backup-runner check-config --config <folder>/storage.toml`
    Then it exits 0
    When I run `tick-replayer check-config --config <folder>/storage.toml`
    Then it exits 0

  @redis-only
  Scenario: A number or a duration that must not be zero
    When each number and each duration in the configuration of each program is set to zero
    Then each program refuses it, exits 64 and names the setting, unless zero has a meaning:
      | postgres.statement_timeout | no limit                                      |
      | hot.close_grace            | a minute is closed as soon as it has ended    |
      | warm.batch_wait            | a batch takes what is there                   |
      | admin.rollup_collect       | every range is refreshed by itself            |
      | admin.verify_share         | nothing is compared in the background         |
      | backup.redis_every         | no backups of Redis                           |
      | backup.postgres_every      | no logical backups of the database            |
      | backup.base_every          | no base backups                               |
      | backup.verify_every        | no checks                                     |
      | backup.keep_daily          | no backup stays for its day                   |
      | backup.keep_weekly         | no backup stays for its week                  |
      | backup.leftovers_after     | leftovers go with the next prune              |

  Scenario: Another number of partitions than Redis holds
    Given migrated stores
    When hot-writer, warm-syncer, aggregator-admin are started with `--set stream.partitions=8`
    Then each exits 64 and says "partitions is 4 in Redis but 8 in the configuration"

  @redis-only
  Scenario: A Redis that was never set up
    When hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "Redis holds no number of partitions; run `aggregator-admin migrate`"
    When I run `tick-replayer generate --ticks 1`
    Then it exits 64
    And it says "Redis holds no number of partitions; run `aggregator-admin migrate`"

  @redis-only
  Scenario: A Redis without the functions
    Given Redis prepared for a hot-writer
    And every function is removed from Redis
    When hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "the functions of the pipeline are not loaded in Redis; run `aggregator-admin migrate`"

  Scenario: Old functions
    Given migrated stores
    And the functions in Redis are of version 0
    When hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "the functions in Redis are version 0"
    When I run `aggregator-admin migrate`
    Then it exits 0
    And it says "functions: loaded version"

  Scenario: A database without the schema
    Given Redis prepared for a hot-writer
    And an empty database
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "run `aggregator-admin migrate`"

  Scenario: A database with the schema of a later version
    Given migrated stores
    And the database has a migration of a later version
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "has migration 29991231000000, which this version does not know"

  Scenario: Two databases for one Redis
    Given migrated stores
    And another database that was set up for another Redis
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "run `aggregator-admin migrate --adopt-database`"
    When I run `aggregator-admin migrate`
    Then it exits 64
    And it says "Redis belongs to database"
    When I run `aggregator-admin migrate --adopt-database`
    Then it exits 0
    And it says "instead of"
    When the warm-syncer is started
    And the aggregator-admin is started
    And I run `aggregator-admin status`
    Then it exits 0

  Scenario: A Redis that names no database
    Given migrated stores
    And Redis no longer names its database
    When warm-syncer, aggregator-admin are started
    Then each exits 64 and says "run `aggregator-admin migrate`"
    When I run `aggregator-admin migrate`
    Then it exits 0
    When the warm-syncer is started
    And the aggregator-admin is started

  @own-redis @redis-only
  Scenario: A wrong password for Redis
    Given Redis prepared for a hot-writer
    And workers with the password "wrong-password" for Redis
    When every program uses Redis
    Then each exits 64 and says "Password authentication failed"
    And no output contains "wrong-password"

  @apache
  Scenario: A wrong password for the database
    Given migrated stores
    And a database server that wants a password, and workers with the password "wrong-password"
    When every program uses PostgreSQL
    Then each exits 64 and says "password authentication failed"
    And no output contains "wrong-password"

  @apache
  Scenario: A database that does not exist
    Given migrated stores
    And a database server without the database of the workers
    When every program uses PostgreSQL
    Then each exits 64 and says "create the database"

  @redis-only
  Scenario: A host name that does not resolve is waited for, as it may once its container runs
    Given the setting REDIS_URL is "redis://absent.invalid:6379"
    When the hot-writer is started without waiting for readiness
    And the warm-syncer is started without waiting for readiness
    And the aggregator-admin is started without waiting for readiness
    Then the hot-writer is not ready and reports "absent.invalid"
    And the warm-syncer is not ready and reports "absent.invalid"
    And the aggregator-admin is not ready and reports "absent.invalid"
    When I run `backup-runner backup redis`
    Then it exits 1

  @own-redis
  Scenario: Servers that are down are waited for
    Given migrated stores
    And Redis is down
    When the hot-writer is started without waiting for readiness
    And the warm-syncer is started without waiting for readiness
    Then the hot-writer is not ready and reports "redis"
    And the warm-syncer is not ready and reports "redis"
    When Redis is started again
    Then the hot-writer becomes ready
    And the warm-syncer becomes ready

  @own-redis
  Scenario: A default user of Redis that may not run the commands of the append-only file
    Given migrated stores
    And a Redis whose ACL file contains "user default off resetpass resetkeys resetchannels -@all"
    When hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "ACL SETUSER default off resetpass ~* &* +@all"
    When I run `aggregator-admin migrate`
    Then it exits 64
    And it says "so the next restart loses it"
    When I run `aggregator-admin status`
    Then it exits 1
    And it says "may not run what the append-only file holds"
    When I send `ACL SETUSER default off resetpass ~* &* +@all` to Redis
    And I send `ACL SAVE` to Redis
    And I run `aggregator-admin migrate`
    Then it exits 0
    When I run `aggregator-admin status`
    Then it exits 0

  @own-redis
  Scenario: A Redis that removes streams when it is full
    Given migrated stores
    When I send `CONFIG SET maxmemory-policy allkeys-lru` to Redis
    And hot-writer, warm-syncer, aggregator-admin are started
    Then each exits 64 and says "CONFIG SET maxmemory-policy noeviction"
    When I run `aggregator-admin migrate`
    Then it exits 64
    And it says "which removes streams with unread entries"
    When I send `CONFIG SET maxmemory-policy volatile-lru` to Redis
    And I run `aggregator-admin migrate`
    Then it exits 0
    And it says "which removes open candles and leases"
    When I send `CONFIG SET maxmemory-policy noeviction` to Redis
    And I run `aggregator-admin status`
    Then it exits 0
    And it does not say "maxmemory-policy"

  @own-redis
  Scenario: A Redis that begins to remove streams while the workers run
    Given a running pipeline
    When I send `CONFIG SET maxmemory-policy allkeys-random` to Redis
    Then the aggregator-admin is not ready and reports "maxmemory-policy"
    And the metric aggregator_admin_redis_setting_faults of the aggregator-admin is 1
    When I send `CONFIG SET maxmemory-policy noeviction` to Redis
    Then the aggregator-admin becomes ready
    And the metric aggregator_admin_redis_setting_faults of the aggregator-admin is 0
