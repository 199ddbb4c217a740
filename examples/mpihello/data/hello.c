/* SPDX-License-Identifier: Apache-2.0
 *
 * Rank 0 greets every other rank by number; each answers with the greeting and a report of its own. Rank 0 prints the
 * answers in the order of the ranks, so the output is the same on every run. */

#include <mpi.h>
#include <stdio.h>

enum { GREETING_BYTES = 64, ANSWER_BYTES = 128, ROOT = 0, TAG = 0 };

static void greet_all(int processes)
{
    char greeting[GREETING_BYTES], text[ANSWER_BYTES];

    printf("%d: We have %d processors\n", ROOT, processes);
    for (int rank = 1; rank < processes; rank++) {
        snprintf(greeting, sizeof greeting, "Hello %d!", rank);
        MPI_Send(greeting, sizeof greeting, MPI_CHAR, rank, TAG, MPI_COMM_WORLD);
    }
    for (int rank = 1; rank < processes; rank++) {
        MPI_Recv(text, sizeof text, MPI_CHAR, rank, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        printf("%d: %s\n", ROOT, text);
    }
}

static void answer(int rank)
{
    char greeting[GREETING_BYTES], text[ANSWER_BYTES];

    MPI_Recv(greeting, sizeof greeting, MPI_CHAR, ROOT, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    snprintf(text, sizeof text, "%s Processor %d reporting for duty", greeting, rank);
    MPI_Send(text, sizeof text, MPI_CHAR, ROOT, TAG, MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    int rank, processes;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &processes);
    if (rank == ROOT)
        greet_all(processes);
    else
        answer(rank);
    MPI_Finalize();
    return 0;
}
