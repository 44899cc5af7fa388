"""Several worker processes on one port: starts them, divides limits between them, and merges what they count.

                        supervisor            starts, restarts, forwards signals, adds up the metrics
                   link |        | link          requests and replies over a socket pair
              member 0    member 1   ...      each a whole server of its own; the first has the control listener

They meet in the state store, as replicas on several machines do.
"""
