"""A recorder of steps that calls the work again in a graph's place."""


class Again:
    """Stands for CUDA's recorder: replaying calls the work again, with the step's number of the time of recording."""

    def __init__(self):
        self.ran, self.recorded, self.replayed = 0, 0, 0

    def run(self, work):
        self.ran += 1
        return work()

    def record(self, work, generators):
        self.recorded += 1
        self.generators = list(generators)

        def replay():
            self.replayed += 1
            return work()

        return replay
