"""Never answers."""


def attack():
    while True:
        pass
