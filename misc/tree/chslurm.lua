-- SPDX-License-Identifier: Apache-2.0
-- chslurm for Lmod. PREFIX is found from where this file is, PREFIX/modulefiles/chslurm/VERSION.lua, so that all of it can be
-- moved together; a link that leads here does as well.
local version = myModuleVersion()

local function find_prefix(file)
   return file:match("^(.*)/[^/]+/[^/]+/[^/]+$")
end

local prefix = find_prefix(myFileName())
if not isDir(pathJoin(prefix, version, "venv")) then
   local file = subprocess("readlink -f '" .. myFileName():gsub("'", "'\\''") .. "'"):gsub("\n", "")
   version = file:match("([^/]+)%.lua$")
   prefix = find_prefix(file)
end
local tree = pathJoin(prefix, version)

whatis("Name: chslurm")
whatis("Version: " .. version)
whatis("Category: tools, virtual machines")
whatis("Description: Private clusters of virtual machines as ordinary SLURM jobs")
help([[
chrun starts a cluster of virtual machines on the nodes of a SLURM job, with root
inside; vcluster is the same on a workstation.

    chslurm template new chjob       writes a batch script to start from; template list: others
    chslurm doctor                   says what a launch lacks here, and what to do about it
    chrun --help; chslurm --help     all options; all other commands
    man chrun; chslurm paths         the manual; where examples and all else are
]])

prepend_path("PATH", pathJoin(tree, "bin"))
prepend_path("MANPATH", pathJoin(tree, "share/man"))

-- The site's image, if it has put one, or a link, here; one that the user has chosen stays.
local image = pathJoin(prefix, "image.qcow2")
local chosen = os.getenv("CHSLURM_IMAGE") or ""
if isFile(image) and (chosen == "" or chosen == image) then
   setenv("CHSLURM_IMAGE", image)
end

-- Lmod has source_sh since 8.6. It takes its words for those of a shell.
local completion = pathJoin(tree, "share/completion.bash")
if source_sh and myShellName() == "bash" and isFile(completion) and not completion:find("[^%w_./+-]") then
   source_sh("bash", completion)
end
