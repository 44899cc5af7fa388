"""Several processes on one port: who starts them, what each may take, and how they are seen as one server.

                        supervisor            starts, restarts, forwards signals, adds up the metrics
                   link |        | link          requests and replies over a socket pair
              member 0    member 1   ...      each a whole server of its own; the first has the control listener

They meet in the state store, as replicas on several machines do.
"""
