# SPDX-License-Identifier: Apache-2.0
# Completion of chslurm, chrun, vcluster and oneguest; fish reads this at the first Tab.
chslurm completion fish | source
