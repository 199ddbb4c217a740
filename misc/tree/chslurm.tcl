#%Module
# SPDX-License-Identifier: Apache-2.0
# chslurm for Environment Modules, 4 or later. PREFIX is found from where this file is, PREFIX/modulefiles-tcl/chslurm/VERSION,
# so that all of it can be moved together; a link that leads here does as well.

set version [file tail $ModulesCurrentModulefile]
set prefix [file dirname [file dirname [file dirname $ModulesCurrentModulefile]]]
if {![file isdirectory $prefix/$version/venv]} {
    # `normalize` follows links in folders, and not the last one.
    set file [file normalize $ModulesCurrentModulefile]
    while {[file type $file] eq "link"} {
        set file [file normalize [file join [file dirname $file] [file readlink $file]]]
    }
    set version [file tail $file]
    set prefix [file dirname [file dirname [file dirname $file]]]
}
set tree $prefix/$version

module-whatis "Private clusters of virtual machines as ordinary SLURM jobs ($version)"

proc ModulesHelp {} {
    puts stderr {
chrun starts a cluster of virtual machines on the nodes of a SLURM job, with root
inside; vcluster is the same on a workstation.

    chslurm template new chjob       writes a batch script to start from; template list: others
    chslurm doctor                   says what a launch lacks here, and what to do about it
    chrun --help; chslurm --help     all options; all other commands
    man chrun; chslurm paths         the manual; where examples and all else are
}
}

conflict chslurm

prepend-path PATH $tree/bin
# An empty part is where man looks without MANPATH.
if {![info exists env(MANPATH)] || $env(MANPATH) eq ""} {
    append-path MANPATH ""
}
prepend-path MANPATH $tree/share/man

# The site's image, if it has put one, or a link, here; one that the user has chosen stays.
set image $prefix/image.qcow2
set chosen [expr {[info exists env(CHSLURM_IMAGE)] ? $env(CHSLURM_IMAGE) : ""}]
if {[file isfile $image] && $chosen in [list "" $image]} {
    setenv CHSLURM_IMAGE $image
}

# Environment Modules has source-sh since 4.6.
set completion $tree/share/completion.bash
if {[info commands source-sh] ne "" && [module-info shell bash] && [file isfile $completion]} {
    source-sh bash $completion
}
