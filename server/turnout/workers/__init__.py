"""Multiple worker processes on one port: starts them, divides limits between them, and merges their metrics.

                        supervisor            starts and restarts workers, forwards signals, merges metrics
                   link |        | link          requests and replies over a socket pair
              member 0    member 1   ...      each is a complete server; the first has the control listener

The workers coordinate through the state store, like replicas on different machines.
"""
